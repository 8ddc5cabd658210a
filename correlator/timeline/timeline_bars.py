"""The bars of one scope, in numbers: read from the store once, kept sorted, and asked for windows of time many times.

Why they are kept: planning a query over all that can be a bar costs 40 ms of a core and reading two million bars 200 ms,
for every chunk that anybody looks at; out of what is kept a chunk costs a few ms. A bar takes 20 bytes. A scope that is
larger than there is memory for is read a batch at a time and keeps only its coarse levels; narrow windows are read anew.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from correlator.timeline import timeline_levels, timeline_lod
from correlator.timeline.timeline_kept import Kept
from correlator.timeline.timeline_levels import Level, first_of
from correlator.timeline.timeline_lod import Bars, Drawn
from correlator.timeline.timeline_scope import Scope, Views, batches, rows

BAR_BYTES = 20
NAME_LENGTH = 160
"""Characters of a name that are shown; C++ kernels have thousands."""

_MOST_DRAWN, _DRAWN_BYTES = 1 << 20, 44
"""Of a scope that is too large, what its finest kept level may hold, at most, and the bytes of one drawn bar."""

_PARTS_AT_ONCE = 16

OWNS = 3
"""Kinds of `own` in view `timeline_bar`: a label is a name's code times this, plus its kind."""


class Catalogue:
    """The rows and names of a scope, each with a code: what view `timeline_kind` says."""

    def __init__(self, kinds: pa.Table) -> None:
        """Give codes to the rows and names of `kinds`, in the order of their ids; `counts` has each row's number of bars."""
        self.kinds = kinds
        self.row_ids, first = np.unique(kinds["row_id"].to_numpy(), return_index=True)
        self.lanes: list[str] = kinds["lane"].take(pa.array(first)).to_pylist()
        self._name_ids, named = np.unique(kinds["name_id"].to_numpy(), return_index=True)
        self.names: list[str | None] = kinds["name"].take(pa.array(named)).to_pylist()
        self.classes: list[str | None] = kinds["class"].take(pa.array(named)).to_pylist()
        place = np.searchsorted(self.row_ids, kinds["row_id"].to_numpy())
        self.counts = np.bincount(place, kinds["bars"].to_numpy(), len(self.row_ids)).astype(np.int64)

    def rows(self) -> list[dict[str, Any]]:
        """Return each row with its place in the scope, how many bars it has, and their times."""
        same = ["row_id", "lane", "node", "process_uid", "unit", "number", "rank", "depth"]
        sums = [("bars", "sum"), ("busy_ns", "sum"), ("longest_ns", "max"), ("start_ns", "min"), ("end_ns", "max")]
        found = self.kinds.group_by(same).aggregate([*sums, ("simulated", "any")])
        named = [
            name.removesuffix("_sum").removesuffix("_max").removesuffix("_min").removesuffix("_any")
            for name in found.column_names
        ]
        order = [(name, "ascending") for name in same[1:]]
        return list(found.rename_columns(named).sort_by(order).to_pylist())

    def said(self, label: int) -> list[Any]:
        """Return [name, class, own] of a label, as it is shown."""
        name, own = divmod(label, OWNS)
        return [(self.names[name] or "unnamed")[:NAME_LENGTH], self.classes[name] or "other", own]

    def code(self, row_id: int) -> int | None:
        """Return the code of a row, None for one that the scope does not have."""
        at = int(np.searchsorted(self.row_ids, np.uint64(row_id)))
        return at if at < len(self.row_ids) and self.row_ids[at] == row_id else None

    def read(self, batch: pa.RecordBatch, offset_ns: int) -> Bars:
        """Return a batch of view `timeline_bar` by row and start, its times moved by `offset_ns`.

        Rows and names that came after the catalogue was made are left out, as it says.
        """
        row, row_known = _codes(batch["row_id"], self.row_ids)
        name, name_known = _codes(batch["name_id"], self._name_ids)
        start, end = batch["start_ns"].to_numpy() + offset_ns, batch["end_ns"].to_numpy() + offset_ns
        label = name * OWNS + batch["own"].to_numpy()
        known = row_known & name_known
        bars = Bars(_narrow(row, len(self.row_ids)), start, end, _narrow(label, len(self.names) * OWNS))
        return timeline_lod.ordered(bars if known.all() else bars.take(known))


def _codes(ids: pa.Array, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each id in the sorted ids `known`, and whether it is there."""
    coded = ids.dictionary_encode()
    distinct = coded.dictionary.to_numpy()
    place = np.minimum(np.searchsorted(known, distinct), max(len(known) - 1, 0))
    there = known[place] == distinct if len(known) else np.zeros(len(distinct), bool)
    index = coded.indices.to_numpy()
    return place[index], there[index]


def _narrow(codes: np.ndarray, most: int) -> np.ndarray:
    return codes.astype(np.uint16 if most <= 1 << 16 else np.uint32)


class ScopeBars(Protocol):
    """The bars of one scope: kept, or read when asked for."""

    catalogue: Catalogue

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""

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
            parts.append(timeline_lod.coarser(timeline_lod.single(bars), level))
            if len(parts) > _PARTS_AT_ONCE:
                parts = [timeline_lod.coarser(timeline_lod.joined(parts), level)]
        return timeline_lod.coarser(timeline_lod.joined(parts), level)

    def starting(self, low: int, until: int) -> Bars:
        """Return the bars that start in [low, until), cut at `until`."""
        return timeline_lod.put_together(list(self._read(low, until, after=low)))

    def crossing(self, moment: int, until: int) -> Bars:
        """Return the bars that begin before a moment and end after it, cut to [moment, until)."""
        found = timeline_lod.put_together(list(self._read(moment, until, before=moment)))
        return found.take(found.end > moment)

    def _read(self, since: int, until: int, after: int | None = None, before: int | None = None) -> Iterator[Bars]:
        yield from _read(self.catalogue, self._views, self._scope, since, min(until, self._length), after, before)

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
        return [first, *timeline_levels.made(found, finest + 1, self._length, rows)]


def _finest_level(row_ns: int) -> int:
    """Return the finest level of which no more than `_MOST_DRAWN` buckets cover all rows."""
    return max((row_ns // _MOST_DRAWN).bit_length(), 1)


def load(views: Views, scope: Scope, most_bytes: int) -> ScopeBars:
    """Return the bars of a scope, kept where they take no more than `most_bytes`."""
    catalogue = Catalogue(rows(views, "timeline_kind", scope.parameters()))
    if catalogue.counts.sum() * BAR_BYTES > most_bytes:
        return StoredBars(catalogue, views, scope)
    length = scope.to_ns - scope.from_ns
    return KeptBars(catalogue, Kept.of(_read(catalogue, views, scope, 0, length), catalogue.counts, length))


def _read(
    catalogue: Catalogue,
    views: Views,
    scope: Scope,
    since: int,
    until: int,
    after: int | None = None,
    before: int | None = None,
) -> Iterator[Bars]:
    """Yield the bars that overlap [since, until), clipped to it; of them, those that start in [after, before)."""
    if until <= max(since, 0):
        return
    window = scope.parameters(scope.from_ns + max(since, 0), scope.from_ns + until)
    starts = {
        "after_ns": -(1 << 62) if after is None else scope.from_ns + after,
        "before_ns": 1 << 62 if before is None else scope.from_ns + before,
    }
    for batch in batches(views, "timeline_bar", {**window, **starts, "steps": list(scope.steps)}):
        if batch.num_rows:
            yield catalogue.read(batch, max(since, 0))
