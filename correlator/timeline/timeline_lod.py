"""Level of detail: bars shorter than a bucket of time are drawn together, and their counts and busy time stay exact.

Times count in ns from the scope's start, so that the buckets of every level (2^level ns) stand on one grid: what one level
put together can be put together again for a coarser one, and comes out as if made from the bars themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

_START_BITS = 46
"""Bits of a start beside which a row's code fits into one number, to sort by: 19 hours."""


@dataclass(frozen=True)
class _Columns:
    """Columns of one length."""

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(getattr(self, fields(self)[0].name))

    def take(self, chosen: Any) -> Self:
        """Return the rows that `chosen`, a slice, mask or array of places, picks."""
        return type(self)(*(getattr(self, each.name)[chosen] for each in fields(self)))

    def cut(self, stretches: Sequence[slice]) -> Self:
        """Return the rows of several stretches, one after the other; much faster than by their places."""
        if not stretches:
            return self.take(slice(0))
        columns = (getattr(self, each.name) for each in fields(self))
        return type(self)(*(np.concatenate([column[each] for each in stretches]) for column in columns))


@dataclass(frozen=True)
class Bars(_Columns):
    """Bars by row and then by start. `row` and `label` are codes that a catalogue knows; times in ns."""

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Drawn(_Columns):
    """What is drawn: bars by themselves, and bars drawn together; by row and then by start.

    `count` is how many bars stand in each, `busy` their time in all, `longest` the time of the longest, whose label it has.
    """

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    label: np.ndarray
    longest: np.ndarray
    busy: np.ndarray
    count: np.ndarray


def single(bars: Bars) -> Drawn:
    """Return each bar by itself."""
    lasted = bars.end - bars.start
    return Drawn(bars.row, bars.start, bars.end, bars.label, lasted, lasted, np.ones(len(bars), np.int32))


def joined(parts: Sequence[Drawn]) -> Drawn:
    """Return all parts as one, in order."""
    if len(parts) == 1:
        return parts[0]
    columns = (np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Drawn))
    whole = Drawn(*columns)
    return whole.take(_order(whole.row, whole.start))


def ordered(bars: Bars) -> Bars:
    """Return bars by row and then by start."""
    return bars.take(_order(bars.row, bars.start))


def _order(row: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the order by row and then by start. What is in order already, or in a few runs, costs a stable sort little."""
    if len(start) and start.max() < 1 << _START_BITS and row.max() < 1 << 63 - _START_BITS:
        return np.argsort((row.astype(np.int64) << _START_BITS) + start, kind="stable")
    return np.lexsort((start, row))


def put_together(parts: Sequence[Bars]) -> Bars:
    """Return the bars of several parts as one, in order."""
    if not parts:
        return NO_BARS
    return ordered(Bars(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Bars))))


def coarser(found: Drawn, level: int) -> Drawn:
    """Return `found` with what is shorter than a bucket drawn together, by row and bucket; longer bars stay as they are."""
    short = found.longest < (1 << level)
    if not short.any():
        return found
    together = _together(found if short.all() else found.take(short), level)
    return together if short.all() else joined([together, found.take(~short)])


def bundled(found: Drawn, level: int) -> Drawn:
    """Return `found` with neighbours shorter than a bucket drawn together: less than `coarser` does, which makes the same of
    it, at a third of the cost, since nothing changes its place."""
    longs = found.longest >= (1 << level)
    return _grouped(found, _changes(found, level) | longs[1:] | longs[:-1])


def _together(found: Drawn, level: int) -> Drawn:
    return _grouped(found, _changes(found, level))


def _changes(found: Drawn, level: int) -> np.ndarray:
    """Return where the next one is of another row or bucket."""
    bucket = found.start >> level
    changed: np.ndarray = (found.row[1:] != found.row[:-1]) | (bucket[1:] != bucket[:-1])
    return changed


def _grouped(found: Drawn, breaks: np.ndarray) -> Drawn:
    """Return neighbours as one, save where there is a break between them."""
    first = np.flatnonzero(np.append(True, breaks)) if len(found) else np.zeros(0, np.int64)
    if len(first) == len(found):
        return found
    longest = np.maximum.reduceat(found.longest, first)
    group = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(found))))
    holds = np.flatnonzero(found.longest == longest[group])
    best = holds[np.append(True, np.diff(group[holds]) > 0)]
    return Drawn(
        found.row[first],
        found.start[first],
        np.maximum.reduceat(found.end, first),
        found.label[best],
        longest,
        np.add.reduceat(found.busy, first),
        np.add.reduceat(found.count, first, dtype=np.int32),
    )


def clipped(bars: Bars, since: int, until: int) -> Bars:
    """Return the bars that overlap [since, until), or are an instant in it, with their ends clipped to it."""
    inside = (bars.start < until) & ((bars.end > since) | ((bars.start == bars.end) & (bars.start >= since)))
    if not inside.all():
        bars = bars.take(inside)
    return Bars(bars.row, np.maximum(bars.start, since), np.minimum(bars.end, until), bars.label)


NO_BARS = Bars(np.zeros(0, np.uint16), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint16))
NOTHING = single(NO_BARS)
"""What is drawn where there is nothing."""
