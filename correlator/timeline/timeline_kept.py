"""All bars of a scope in memory, sorted, with coarser levels of detail beside them where there are many."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from correlator.timeline import timeline_lod
from correlator.timeline.timeline_lod import Bars, Drawn

_LEVELS_FROM = 1 << 17
"""Bars from which on coarser levels are kept: fewer are drawn together in a few ms."""

_SHRINKS = 4
"""A level is kept where it has this many times fewer bars than the one below: all levels together take little memory."""

_WIDEST_BITS = 12
"""No screen is wider than 2^12 pixels, so no level coarser than the whole at that width is ever asked for."""


class Kept:
    """Bars by row and start, that windows of time are cut out of. Safe to share between threads."""

    def __init__(self, bars: Bars, row_count: int, length_ns: int) -> None:
        """Keep bars that stand by row and then by start; they lie in [0, length_ns)."""
        self.bars, self.length_ns = bars, length_ns
        self._first = _first(bars.row, row_count)
        self._longest = np.zeros(row_count, np.int64)
        held = np.flatnonzero(np.diff(self._first))
        if len(held):
            self._longest[held] = np.maximum.reduceat(bars.end - bars.start, self._first[held])
        self._levels: list[_Level] | None = None
        self._making = threading.Lock()

    @classmethod
    def of(cls, parts: Sequence[Bars], row_count: int, length_ns: int) -> Kept:
        """Keep the bars of several parts, each of them sorted."""
        columns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "start", "end", "label"))
        bars = timeline_lod.ordered(Bars(*columns)) if parts else timeline_lod.NO_BARS
        return cls(bars, row_count, length_ns)

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
        below = next((each for each in reversed(self._kept_levels()) if each.level <= level), None)
        if below is None:
            return timeline_lod.coarser(timeline_lod.single(self.window(since, until)), level)
        # What a window's ends cut is told by the bars themselves: one drawn together cannot be cut exactly.
        edge = until - (1 << below.level)
        crossing = timeline_lod.clipped(self._starting(since - self._longest, since), since, until)
        last = timeline_lod.clipped(self._starting(edge, until), since, until)
        parts = [below.starting(since, edge, until), timeline_lod.single(crossing), timeline_lod.single(last)]
        return timeline_lod.coarser(timeline_lod.joined([part for part in parts if len(part)] or parts[:1]), level)

    def _starting(self, low: int | np.ndarray, high: int) -> Bars:
        return self.bars.cut(_stretches(self.bars.start, self._first, low, high))

    def _kept_levels(self) -> list[_Level]:
        with self._making:
            if self._levels is None:
                self._levels = list(self._made()) if len(self.bars) >= _LEVELS_FROM else []
            return self._levels

    def _made(self) -> list[_Level]:
        """Return the kept levels, the finest first: each is made of the one below."""
        level = _lowest_level(self.length_ns * np.count_nonzero(np.diff(self._first)) / len(self.bars))
        below, made = timeline_lod.single(self.bars), []
        while level <= self.length_ns.bit_length() - _WIDEST_BITS + 1:
            found = timeline_lod.coarser(below, level)
            if len(found) * _SHRINKS <= len(below):
                made.append(_Level(level, found, _first(found.row, len(self._longest))))
                below = found
            level += 1
        return made


def _lowest_level(ns_per_bar: float) -> int:
    """Return the first level whose buckets hold more than one bar, on the average."""
    return max(int(np.log2(max(ns_per_bar, 1))), 0) + 1


@dataclass(frozen=True)
class _Level:
    """What is drawn of the whole scope at one level."""

    level: int
    found: Drawn
    first: np.ndarray

    def starting(self, low: int, high: int, until: int) -> Drawn:
        """Return what starts in [low, high), cut at `until`, which lies a bucket or more after `high`."""
        found = self.found.cut(_stretches(self.found.start, self.first, low, high))
        over = found.end > until
        if not over.any():
            return found
        # Only bars by themselves reach so far.
        end = np.minimum(found.end, until)
        lasted = end - found.start
        busy, longest = np.where(over, lasted, found.busy), np.where(over, lasted, found.longest)
        return Drawn(found.row, found.start, end, found.label, longest, busy, found.count)


def _first(row: np.ndarray, row_count: int) -> np.ndarray:
    """Return where each row begins, and where the last one ends."""
    return np.searchsorted(row, np.arange(row_count + 1))


def _stretches(start: np.ndarray, first: np.ndarray, low: int | np.ndarray, high: int) -> list[slice]:
    """Return where the bars whose start is in [low, high) stand, row by row; `low` may differ from row to row."""
    lows = np.broadcast_to(low, len(first) - 1).tolist()
    found = []
    for begin, end, least in zip(first[:-1].tolist(), first[1:].tolist(), lows, strict=True):
        if begin < end:
            from_place, to_place = start[begin:end].searchsorted((least, high)).tolist()
            if to_place > from_place:
                found.append(slice(begin + from_place, begin + to_place))
    return found
