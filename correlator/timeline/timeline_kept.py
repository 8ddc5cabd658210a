"""All bars of a scope in memory, sorted, with coarser levels of detail beside them where there are many."""

from __future__ import annotations

import threading

import numpy as np

from correlator.timeline import timeline_draw, timeline_levels, timeline_lod
from correlator.timeline.timeline_draw import Part, stretches
from correlator.timeline.timeline_levels import Level, first_of
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

    @property
    def nbytes(self) -> int:
        """Bytes that the bars take, and what the levels may."""
        own = sum(column.nbytes for column in (self.bars.row, self.bars.start, self.bars.end, self.bars.label))
        return own if len(self.bars) < _LEVELS_FROM else own * 7 // 4

    def window(self, since: int, until: int) -> Bars:
        """Return the bars that overlap [since, until), clipped to it."""
        found = self.bars.cut(stretches(self.bars.start, self._first, since - self._longest, until))
        return timeline_lod.clipped(found, since, until)

    def of_row(self, row: int, since: int, until: int) -> Bars:
        """Return the bars of one row that overlap or touch [since, until], as they are."""
        begin, end = self._first[row], self._first[row + 1]
        start = self.bars.start[begin:end]
        low, high = np.searchsorted(start, since - self._longest[row]), np.searchsorted(start, until, "right")
        found = self.bars.take(slice(begin + low, begin + high))
        return found.take(found.end >= since)

    def drawn(self, level: int, since: int, until: int) -> Drawn:
        """Return what is drawn of [since, until), both on the grid of 2^level ns."""
        return timeline_levels.drawn(self, self.levels(), level, since, until)

    def fresh(self, level: int, since: int, until: int) -> Drawn:
        """Return what is drawn of a window, made of its bars."""
        return timeline_draw.draw([self._part(since - self._longest, until, since)], until, level)

    def starting(self, low: int, until: int) -> Part:
        """Return the bars that start in [low, until)."""
        return self._part(low, until, low)

    def crossing(self, moment: int, until: int) -> Part:
        """Return the bars that begin before a moment, of which those count that end after it."""
        return self._part(moment - self._longest, moment, moment)

    def _part(self, low: int | np.ndarray, high: int, since: int) -> Part:
        return Part(self.bars, self._first, low, high, since)

    def levels(self) -> list[Level]:
        """Return the coarser levels, made where they were not."""
        with self._making:
            if self._levels is None:
                self._levels = self._made() if len(self.bars) >= _LEVELS_FROM else []
            return self._levels

    def _made(self) -> list[Level]:
        lowest = _lowest_level(self.length_ns * np.count_nonzero(np.diff(self._first)) / len(self.bars))
        return timeline_levels.made(self.bars, self._first, lowest, self.length_ns)


def _lowest_level(ns_per_bar: float) -> int:
    """Return the first level whose buckets hold more than one bar, on the average."""
    return max(int(np.log2(max(ns_per_bar, 1))), 0) + 1
