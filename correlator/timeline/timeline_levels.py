"""Coarser levels of detail of a whole scope, kept so that a wide window costs what is drawn of it and not what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from correlator.timeline import timeline_lod
from correlator.timeline.timeline_lod import Bars, Drawn

_SHRINKS = 4
"""A level is kept where it has this many times fewer bars than the one below: all levels together take little memory."""

_WIDEST_BITS = 12
"""No screen is wider than 2^12 pixels, so no level coarser than the whole at that width is ever asked for."""


class Source(Protocol):
    """The bars of a scope themselves."""

    def fresh(self, level: int, since: int, until: int) -> Drawn:
        """Return what is drawn of a window, made of its bars."""

    def starting(self, low: int, until: int) -> Bars:
        """Return the bars that start in [low, until), cut at `until`."""

    def crossing(self, moment: int, until: int) -> Bars:
        """Return the bars that begin before a moment and end after it, cut to [moment, until)."""


@dataclass(frozen=True)
class Level:
    """What is drawn of the whole scope at one level."""

    level: int
    found: Drawn
    first: np.ndarray

    def starting(self, low: int, high: int, until: int) -> Drawn:
        """Return what starts in [low, high), cut at `until`, which lies a bucket or more after `high`."""
        found = self.found.cut(stretches(self.found.start, self.first, low, high))
        over = found.end > until
        if not over.any():
            return found
        # Only bars by themselves reach so far.
        end = np.minimum(found.end, until)
        lasted = end - found.start
        busy, longest = np.where(over, lasted, found.busy), np.where(over, lasted, found.longest)
        return Drawn(found.row, found.start, end, found.label, longest, busy, found.count)


def first_of(row: np.ndarray, row_count: int) -> np.ndarray:
    """Return where each row begins, and where the last one ends."""
    return np.searchsorted(row, np.arange(row_count + 1))


def made(below: Drawn, level: int, length_ns: int, row_count: int) -> list[Level]:
    """Return the levels from `level` on that are worth keeping, the finest first: each is made of the one below."""
    kept = []
    while level <= length_ns.bit_length() - _WIDEST_BITS + 1:
        found = timeline_lod.bundled(below, level)
        if len(found) * _SHRINKS <= len(below):
            kept.append(Level(level, found, first_of(found.row, row_count)))
            below = found
        level += 1
    return kept


def drawn(source: Source, levels: Sequence[Level], level: int, since: int, until: int) -> Drawn:
    """Return what is drawn of [since, until), both on the grid of 2^level ns, from the coarsest level that can tell it."""
    below = next((each for each in reversed(levels) if each.level <= level), None)
    if below is None:
        return source.fresh(level, since, until)
    # What a window's ends cut is told by the bars themselves: one drawn together cannot be cut exactly.
    edge = until - (1 << below.level)
    cut = (source.crossing(since, until), source.starting(edge, until))
    parts = [below.starting(since, edge, until), *(timeline_lod.single(bars) for bars in cut)]
    return timeline_lod.coarser(timeline_lod.joined([part for part in parts if len(part)] or parts[:1]), level)


def stretches(start: np.ndarray, first: np.ndarray, low: int | np.ndarray, high: int) -> list[slice]:
    """Return where the bars whose start is in [low, high) stand, row by row; `low` may differ from row to row."""
    lows = np.broadcast_to(low, len(first) - 1).tolist()
    found = []
    for begin, end, least in zip(first[:-1].tolist(), first[1:].tolist(), lows, strict=True):
        if begin < end:
            from_place, to_place = start[begin:end].searchsorted((least, high)).tolist()
            if to_place > from_place:
                found.append(slice(begin + from_place, begin + to_place))
    return found
