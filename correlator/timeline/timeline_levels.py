"""Coarser levels of detail of a whole scope, kept so that a wide window costs what is drawn of it and not what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from correlator.timeline import timeline_draw
from correlator.timeline.timeline_draw import Part
from correlator.timeline.timeline_lod import Bars, Drawn

_SHRINKS = 4
"""A level is kept where it has this many times fewer bars than the one below: all levels together take little memory."""

_WIDEST_BITS = 12
"""No screen is wider than 2^12 pixels, so no level coarser than the whole at that width is ever asked for."""


class Source(Protocol):
    """The bars of a scope themselves."""

    def fresh(self, level: int, since: int, until: int) -> Drawn:
        """Return what is drawn of a window, made of its bars."""

    def starting(self, low: int, until: int) -> Part:
        """Return the bars that start in [low, until)."""

    def crossing(self, moment: int, until: int) -> Part:
        """Return the bars that begin before a moment and end after it."""


@dataclass(frozen=True)
class Level:
    """What is drawn of the whole scope at one level."""

    level: int
    found: Drawn
    first: np.ndarray


def first_of(row: np.ndarray, row_count: int) -> np.ndarray:
    """Return where each row begins, and where the last one ends."""
    return np.searchsorted(row, np.arange(row_count + 1))


def made(below: Bars | Drawn, first: np.ndarray, level: int, length_ns: int) -> list[Level]:
    """Return the levels from `level` on that are worth keeping, the finest first: each is made of the one below."""
    kept = []
    while level <= length_ns.bit_length() - _WIDEST_BITS + 1:
        found = timeline_draw.whole(below, first, level)
        if len(found) * _SHRINKS <= len(below):
            below, first = found, first_of(found.row, len(first) - 1)
            kept.append(Level(level, below, first))
        level += 1
    return kept


def drawn(source: Source, levels: Sequence[Level], level: int, since: int, until: int) -> Drawn:
    """Return what is drawn of [since, until), both on the grid of 2^level ns, from the coarsest level that can tell it."""
    below = next((each for each in reversed(levels) if each.level <= level), None)
    if below is None:
        return source.fresh(level, since, until)
    # What a window's ends cut is told by the bars themselves: one drawn together cannot be cut exactly.
    edge = until - (1 << below.level)
    inside = Part(below.found, below.first, since, edge, since)
    return timeline_draw.draw((source.crossing(since, until), inside, source.starting(edge, until)), until, level)
