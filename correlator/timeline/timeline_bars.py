"""The bars of one scope, in numbers: read from the store once, kept sorted, and asked for windows of time many times.

Why they are kept: planning a query over all that can be a bar costs 40 ms of a core and reading two million bars 200 ms,
for every chunk that anybody looks at; out of what is kept a chunk costs a few ms. A bar takes 20 bytes. A scope that is
larger than there is memory for is read a batch at a time and keeps only its coarse levels; narrow windows are read anew.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa

from correlator.timeline import timeline_draw, timeline_levels, timeline_lod, timeline_place
from correlator.timeline.timeline_catalogue import Catalogue
from correlator.timeline.timeline_draw import EVER, Part
from correlator.timeline.timeline_kept import Kept
from correlator.timeline.timeline_levels import Level, first_of
from correlator.timeline.timeline_lod import Bars, Drawn
from correlator.timeline.timeline_preview import Preview
from correlator.timeline.timeline_scope import Scope, Views, batches

BAR_BYTES = 20
_MOST_DRAWN, _DRAWN_BYTES = 1 << 20, 44
"""Of a scope that is too large, what its finest kept level may hold, at most, and the bytes of one drawn bar."""

_PARTS_AT_ONCE = 16


class ScopeBars(Protocol):
    """The bars of one scope: kept, or read when asked for."""

    catalogue: Catalogue

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""

    def prepare(self) -> None:
        """Make what answers need beside the bars, which would keep the first who asks waiting."""

    def pieces(self, since: int, until: int) -> Iterator[Bars]:
        """Yield the bars that overlap [since, until) of the scope, clipped to it."""

    def drawn(self, level: int, since: int, until: int) -> Drawn:
        """Return what is drawn of [since, until), both on the grid of 2^level ns."""


class KeptBars:
    """The bars of a scope in memory."""

    def __init__(self, catalogue: Catalogue, kept: Kept) -> None:
        """Answer from what is kept."""
        self.catalogue, self.kept = catalogue, kept

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self.kept.nbytes

    def prepare(self) -> None:
        """Make the coarser levels."""
        self.kept.levels()

    def pieces(self, since: int, until: int) -> Iterator[Bars]:
        """Yield the bars of a window, as one piece."""
        yield self.kept.window(since, until)

    def drawn(self, level: int, since: int, until: int) -> Drawn:
        """Return what is drawn of a window."""
        return self.kept.drawn(level, since, until)


class StoredBars:
    """The bars of a scope that is too large to keep. Coarse levels are kept; a window of less is read from the store."""

    def __init__(self, catalogue: Catalogue, views: Views, scope: Scope) -> None:
        """Answer from the store."""
        self.catalogue, self._views, self._scope = catalogue, views, scope
        self._length = scope.to_ns - scope.from_ns
        self._levels: list[Level] | None = None
        self._making = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return _DRAWN_BYTES * _MOST_DRAWN

    def prepare(self) -> None:
        """Make the coarse levels."""
        self._kept_levels()

    def pieces(self, since: int, until: int) -> Iterator[Bars]:
        """Yield the bars of a window as they come; a row's bars may be in several pieces."""
        yield from self._read(since, until)

    def drawn(self, level: int, since: int, until: int) -> Drawn:
        """Return what is drawn of a window."""
        return timeline_levels.drawn(self, self._kept_levels(), level, since, until)

    def fresh(self, level: int, since: int, until: int) -> Drawn:
        """Return what is drawn of a window, made of its bars; only what is drawn of each batch stays in memory."""
        parts = [timeline_lod.NOTHING]
        for bars in self._read(since, until):
            parts.append(timeline_draw.whole(bars, self._first_of(bars), level))
            if len(parts) > _PARTS_AT_ONCE:
                parts = [timeline_lod.coarser(timeline_lod.joined(parts), level)]
        return timeline_lod.coarser(timeline_lod.joined(parts), level)

    def starting(self, low: int, until: int) -> Part:
        """Return the bars that start in [low, until)."""
        found = timeline_lod.put_together(list(self._read(low, until, after=low)))
        return Part(found, self._first_of(found), low, until, low)

    def crossing(self, moment: int, until: int) -> Part:
        """Return the bars that begin before a moment and end after it."""
        found = timeline_lod.put_together(list(self._read(moment, until, before=moment)))
        found = found.take(found.end > moment)
        return Part(found, self._first_of(found), -EVER, until, moment)

    def _first_of(self, bars: Bars) -> np.ndarray:
        return first_of(bars.row, len(self.catalogue.row_ids))

    def _read(self, since: int, until: int, after: int | None = None, before: int | None = None) -> Iterator[Bars]:
        low, high = max(since, 0), min(until, self._length)
        if low < high:
            for batch in _batches(self._views, self._scope, low, high, after, before):
                yield self.catalogue.read(batch, low)

    def _kept_levels(self) -> list[Level]:
        with self._making:
            if self._levels is None:
                self._levels = self._made()
            return self._levels

    def _made(self) -> list[Level]:
        rows = len(self.catalogue.row_ids)
        finest = _finest_level(self._length * rows)
        found = self.fresh(finest, 0, self._length)
        first = Level(finest, found, first_of(found.row, rows))
        return [first, *timeline_levels.made(found, first.first, finest + 1, self._length)]


def _finest_level(row_ns: int) -> int:
    """Return the finest level of which no more than `_MOST_DRAWN` buckets cover all rows."""
    return max((row_ns // _MOST_DRAWN).bit_length(), 1)


def fits(catalogue: Catalogue, most_bytes: int) -> bool:
    """Return whether the bars of a scope take no more than `most_bytes`."""
    return bool(catalogue.counts.sum() * BAR_BYTES <= most_bytes)


def load(
    catalogue: Catalogue, views: Views, scope: Scope, most_bytes: int, preview: Preview | None = None
) -> ScopeBars:
    """Return the bars of a scope, kept where they take no more than `most_bytes`: `preview` shows those as they come."""
    if not fits(catalogue, most_bytes):
        return StoredBars(catalogue, views, scope)
    length = scope.to_ns - scope.from_ns
    bars = timeline_place.placed(catalogue, _batches(views, scope, 0, length), preview)
    return KeptBars(catalogue, Kept(bars, len(catalogue.row_ids), length))


def _batches(
    views: Views, scope: Scope, since: int, until: int, after: int | None = None, before: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the bars that overlap [since, until), clipped to it; of them, those that start in [after, before)."""
    window = scope.parameters(scope.from_ns + since, scope.from_ns + until)
    starts = {
        "after_ns": -EVER if after is None else scope.from_ns + after,
        "before_ns": EVER if before is None else scope.from_ns + before,
    }
    for batch in batches(views, "timeline_bar", {**window, **starts, "steps": list(scope.steps)}):
        if batch.num_rows:
            yield batch
