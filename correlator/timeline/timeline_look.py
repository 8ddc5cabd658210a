"""Questions to a scope's bars: the bar at a place, bars by name, what took the time. Times in ns from the scope's start."""

from __future__ import annotations

from typing import Any

import numpy as np

from correlator.timeline.timeline_bars import KeptBars, ScopeBars
from correlator.timeline.timeline_catalogue import OWNS
from correlator.timeline.timeline_lod import Bars

MOST_FOUND, MOST_NAMES = 200, 300
_OWN = 1


def nearest(bars: ScopeBars, row_id: int, at: int, slack: int) -> dict[str, Any] | None:
    """Return the bar at a moment on a row: those that hold it first, the shortest of them before.

    None where the bars are not in memory, or the bar reaches the scope's ends, where more may be known than is kept.
    """
    row = bars.catalogue.code(row_id)
    if row is None or not isinstance(bars, KeptBars):
        return None
    found = bars.kept.of_row(row, at - slack, at + slack)
    if not len(found):
        return None
    holds = (found.start <= at) & (found.end > at)
    best = int(np.lexsort((abs(found.start - at), found.end - found.start, ~holds))[0])
    start, end = int(found.start[best]), int(found.end[best])
    if start <= 0 or end >= bars.kept.length_ns:
        return None
    return _said(bars, found, best)


def named(bars: ScopeBars, text: str, length_ns: int) -> tuple[int, list[dict[str, Any]]]:
    """Return how many bars of the scope have a name that holds a text, and the longest of them."""
    sought = text.lower()
    hit = np.array([sought in (name or "").lower() for name in bars.catalogue.names], bool)
    count, found = 0, []
    for piece in bars.pieces(0, length_ns):
        chosen = np.flatnonzero(hit[piece.label // OWNS])
        count += len(chosen)
        lasted = (piece.end - piece.start)[chosen]
        longest = chosen[np.argpartition(-lasted, MOST_FOUND)[:MOST_FOUND]] if len(chosen) > MOST_FOUND else chosen
        found += [_said(bars, piece, place) for place in longest.tolist()]
    found.sort(key=lambda bar: bar["start_ns"] - bar["end_ns"])
    return count, found[:MOST_FOUND]


def _said(bars: ScopeBars, piece: Bars, place: int) -> dict[str, Any]:
    row, (name, kind, _) = int(piece.row[place]), bars.catalogue.said(int(piece.label[place]))
    return {
        "row_id": int(bars.catalogue.row_ids[row]),
        "lane": bars.catalogue.lanes[row],
        "start_ns": int(piece.start[place]),
        "end_ns": int(piece.end[place]),
        "name": name,
        "class": kind,
    }


def profile(bars: ScopeBars, since: int, until: int) -> list[dict[str, Any]]:
    """Return what took the time in a window, by lane and name: GPU executions first, then what took most."""
    catalogue = bars.catalogue
    lanes = sorted(set(catalogue.lanes))
    lane_of = np.array([lanes.index(lane) for lane in catalogue.lanes], np.int64)
    count, total, longest, own = np.zeros((4, len(lanes) * len(catalogue.names)), np.int64)
    for piece in bars.pieces(since, until):
        lasted = piece.end - piece.start
        key = lane_of[piece.row] * len(catalogue.names) + piece.label // OWNS
        # Sums in double precision are exact below 2^53 ns, a hundred days of one piece.
        count += np.bincount(key, minlength=len(count))
        total += np.bincount(key, lasted, len(count)).astype(np.int64)
        own += np.bincount(key, np.where(piece.label % OWNS == _OWN, lasted, 0), len(count)).astype(np.int64)
        np.maximum.at(longest, key, lasted)
    found = [_line(catalogue, lanes, key, count, total, longest, own) for key in np.flatnonzero(count).tolist()]
    return sorted(found, key=lambda line: (line["lane"] != "kernel", -line["total_ns"]))[:MOST_NAMES]


def _line(
    catalogue: Any,
    lanes: list[str],
    key: int,
    count: np.ndarray,
    total: np.ndarray,
    longest: np.ndarray,
    own: np.ndarray,
) -> dict[str, Any]:
    lane, name = divmod(key, len(catalogue.names))
    return {
        "lane": lanes[lane],
        "name": catalogue.names[name],
        "class": catalogue.classes[name],
        "bars": int(count[key]),
        "total_ns": int(total[key]),
        "longest_ns": int(longest[key]),
        "own_ns": int(own[key]),
    }
