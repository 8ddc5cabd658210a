"""All bars of a scope in memory, sorted, with coarser levels of detail beside them where there are many."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np

from correlator.timeline import timeline_levels, timeline_lod
from correlator.timeline.timeline_levels import Level, first_of, stretches
from correlator.timeline.timeline_lod import Bars, Drawn

_LEVELS_FROM = 1 << 17
"""Bars from which on coarser levels are kept: fewer are drawn together in a few ms."""


class Kept:
    """Bars by row and start, that windows of time are cut out of. Safe to share between threads."""

    def __init__(self, bars: Bars, row_count: int, length_ns: int) -> None:
        """Keep bars that stand by row and then by start; they lie in [0, length_ns)."""
        self.bars, self.length_ns = bars, length_ns
        self._first = first_of(bars.row, row_count)
        self._longest = np.zeros(row_count, np.int64)
        held = np.flatnonzero(np.diff(self._first))
        if len(held):
            self._longest[held] = np.maximum.reduceat(bars.end - bars.start, self._first[held])
        self._levels: list[Level] | None = None
        self._making = threading.Lock()

    @classmethod
    def of(cls, parts: Iterable[Bars], counts: np.ndarray, length_ns: int) -> Kept:
        """Keep the bars of several parts, each of them sorted; `counts` says how many each row has in all.

        Each part goes to its place as it comes, so that loading takes no more memory than what is kept.
        """
        return cls(_placed(parts, counts), len(counts), length_ns)

    @property
    def nbytes(self) -> int:
        """Bytes that the bars take, and what the levels may."""
        own = sum(column.nbytes for column in (self.bars.row, self.bars.start, self.bars.end, self.bars.label))
        return own if len(self.bars) < _LEVELS_FROM else own * 7 // 4

    def window(self, since: int, until: int) -> Bars:
        """Return the bars that overlap [since, until), clipped to it."""
        return timeline_lod.clipped(self._starting(since - self._longest, until), since, until)

    def of_row(self, row: int, since: int, until: int) -> Bars:
        """Return the bars of one row that overlap or touch [since, until], as they are."""
        begin, end = self._first[row], self._first[row + 1]
        start = self.bars.start[begin:end]
        low, high = np.searchsorted(start, since - self._longest[row]), np.searchsorted(start, until, "right")
        found = self.bars.take(slice(begin + low, begin + high))
        return found.take(found.end >= since)

    def drawn(self, level: int, since: int, until: int) -> Drawn:
        """Return what is drawn of [since, until), both on the grid of 2^level ns."""
        return timeline_levels.drawn(self, self._kept_levels(), level, since, until)

    def fresh(self, level: int, since: int, until: int) -> Drawn:
        """Return what is drawn of a window, made of its bars."""
        return timeline_lod.coarser(timeline_lod.single(self.window(since, until)), level)

    def starting(self, low: int, until: int) -> Bars:
        """Return the bars that start in [low, until), cut at `until`."""
        return timeline_lod.clipped(self._starting(low, until), low, until)

    def crossing(self, moment: int, until: int) -> Bars:
        """Return the bars that begin before a moment and end after it, cut to [moment, until)."""
        return timeline_lod.clipped(self._starting(moment - self._longest, moment), moment, until)

    def _starting(self, low: int | np.ndarray, high: int) -> Bars:
        return self.bars.cut(stretches(self.bars.start, self._first, low, high))

    def _kept_levels(self) -> list[Level]:
        with self._making:
            if self._levels is None:
                self._levels = self._made() if len(self.bars) >= _LEVELS_FROM else []
            return self._levels

    def _made(self) -> list[Level]:
        lowest = _lowest_level(self.length_ns * np.count_nonzero(np.diff(self._first)) / len(self.bars))
        return timeline_levels.made(timeline_lod.single(self.bars), lowest, self.length_ns, len(self._longest))


def _placed(parts: Iterable[Bars], counts: np.ndarray) -> Bars:
    first, filled = np.concatenate([[0], np.cumsum(counts)]), np.zeros(len(counts), np.int64)
    bars = timeline_lod.NO_BARS
    for part in parts:
        if bars is timeline_lod.NO_BARS:
            row = np.repeat(np.arange(len(counts), dtype=part.row.dtype), counts)
            bars = Bars(row, *(np.empty(first[-1], each.dtype) for each in (part.start, part.end, part.label)))
        begins = first_of(part.row, len(counts))
        # What came after the rows were counted has no place.
        sizes = np.minimum(np.diff(begins), counts - filled)
        for at in np.flatnonzero(sizes).tolist():
            size, to, since = int(sizes[at]), int(first[at] + filled[at]), int(begins[at])
            for into, out in ((bars.start, part.start), (bars.end, part.end), (bars.label, part.label)):
                into[to : to + size] = out[since : since + size]
        filled += sizes
    for begin, end in zip(first[:-1].tolist(), (first[:-1] + filled).tolist(), strict=True):
        _sort(bars, begin, end)
    if (filled == counts).all():
        return bars
    return bars.take(np.arange(len(bars)) - np.repeat(first[:-1], counts) < np.repeat(filled, counts))


def _sort(bars: Bars, begin: int, end: int) -> None:
    """Put one row's bars in order of their start, where they are not: one stream's mostly are."""
    start = bars.start[begin:end]
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")
        for column in (bars.end, bars.label, bars.start):
            column[begin:end] = column[begin:end][order]


def _lowest_level(ns_per_bar: float) -> int:
    """Return the first level whose buckets hold more than one bar, on the average."""
    return max(int(np.log2(max(ns_per_bar, 1))), 0) + 1
