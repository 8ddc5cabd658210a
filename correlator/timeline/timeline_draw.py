"""What is drawn of stretches of sorted bars, by the pass of `draw.c` where it was built here, else by numpy's."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from correlator.timeline import timeline_lod
from correlator.timeline.timeline_lod import Bars, Drawn
from warpline import built

EVER = 1 << 62
"""Later than any bar of a scope, in ns; before all of them with a minus."""

_KINDS = {"start": np.int64, "end": np.int64, "longest": np.int64, "busy": np.int64, "count": np.int32}
"""Columns of what is drawn that draw.c reads and writes, beside labels of 16 or 32 bits."""


@dataclass(frozen=True)
class Part:
    """Bars, or what is drawn of them, by row and start; `first` says where each row begins, and where the last one ends.

    Of each row those that start in [low, high) are meant, `low` may differ by row; of bars, those that overlap what is from
    `since` on.
    """

    found: Bars | Drawn
    first: np.ndarray
    low: int | np.ndarray
    high: int
    since: int


class _Part(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in (*_KINDS, "label", "begins", "ends")),
        ("since", ctypes.c_int64),
    ]


class _Drawn(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in (*_KINDS, "label", "of_row")]


class Places(ctypes.Structure):
    """Where draw.c puts bars as they are read: see timeline_place.py."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("row_ids", "name_ids")),
        *((name, ctypes.c_int64) for name in ("rows", "names", "owns")),
        *((name, ctypes.c_void_p) for name in ("first", "filled", "start", "end", "label")),
        ("label_size", ctypes.c_int64),
        ("grid", ctypes.c_void_p),
    ]


def _load() -> Any:
    path = built.library("correlator.timeline._draw", Path(__file__).parent)
    if path is None:
        return None
    try:
        library = ctypes.CDLL(path)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        library.warpline_stretches.restype = library.warpline_draw.restype = number
        library.warpline_stretches.argtypes = [pointer, pointer, number, pointer, number, pointer, pointer]
        library.warpline_draw.argtypes = [pointer, number, number, number, number, number, pointer]
        library.warpline_place.argtypes = [pointer, number, *[pointer] * 5, number]
        library.warpline_place.restype = None
    except (OSError, AttributeError):  # Not for this machine, or built from an older draw.c.
        return None
    return library


library: Any = _load()
"""What draw.c offers, None where it was not built."""


def draw(parts: Sequence[Part], until: int, level: int) -> Drawn:
    """Return what is drawn at 2^level ns of all parts, which follow each other in time in each row, cut at `until`."""
    some = [part for part in parts if len(part.found)]
    if not some:
        return timeline_lod.NOTHING
    return _in_numpy(some, until, level) if library is None else _in_c(some, until, level)


def whole(found: Bars | Drawn, first: np.ndarray, level: int) -> Drawn:
    """Return what is drawn of all that there is, taking no more memory than that."""
    if library is None:
        return timeline_lod.bundled(timeline_lod.single(found) if isinstance(found, Bars) else found, level)
    drawn = draw([Part(found, first, -EVER, EVER, -EVER)], EVER, level)
    return Drawn(
        *(getattr(drawn, name).copy() for name in ("row", "start", "end", "label", "longest", "busy", "count"))
    )


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


def _in_numpy(parts: Sequence[Part], until: int, level: int) -> Drawn:
    cut = []
    for part in parts:
        found = part.found.cut(stretches(part.found.start, part.first, part.low, part.high))
        if isinstance(found, Bars):
            found = timeline_lod.single(timeline_lod.clipped(found, part.since, until))
        cut.append(_ended(found, until))
    return timeline_lod.coarser(timeline_lod.joined([each for each in cut if len(each)] or cut[:1]), level)


def _ended(found: Drawn, until: int) -> Drawn:
    """Return what is drawn, cut at `until`."""
    over = found.end > until
    if not over.any():
        return found
    # Only bars by themselves reach so far.
    end = np.minimum(found.end, until)
    lasted = end - found.start
    busy, longest = np.where(over, lasted, found.busy), np.where(over, lasted, found.longest)
    return Drawn(found.row, found.start, end, found.label, longest, busy, found.count)


def _in_c(parts: Sequence[Part], until: int, level: int) -> Drawn:
    rows, label = len(parts[0].first) - 1, np.result_type(*(part.found.label for part in parts))
    said, kept, most = (_Part * len(parts))(), [], 0
    for place, part in enumerate(parts):
        begins, ends = np.empty((2, rows), np.int64)
        first, low = np.ascontiguousarray(part.first, np.int64), np.full(rows, part.low, np.int64)
        start = np.ascontiguousarray(part.found.start)
        most += library.warpline_stretches(
            *(start.ctypes.data, first.ctypes.data, rows, low.ctypes.data, part.high),
            *(begins.ctypes.data, ends.ctypes.data),
        )
        columns = _columns(part.found, label) | {"begins": begins, "ends": ends}
        kept.append(columns)
        said[place] = _Part(**{name: each.ctypes.data for name, each in columns.items()}, since=part.since)
    out = {name: np.empty(most, kind) for name, kind in _KINDS.items()} | {"label": np.empty(most, label)}
    of_row = np.empty(rows, np.int64)
    into = _Drawn(**{name: each.ctypes.data for name, each in out.items()}, of_row=of_row.ctypes.data)
    count = library.warpline_draw(said, len(parts), rows, until, level, label.itemsize, ctypes.byref(into))
    row = np.repeat(np.arange(rows, dtype=parts[0].found.row.dtype), of_row)
    return Drawn(row, **{name: each[:count] for name, each in out.items()})


def _columns(found: Bars | Drawn, label: np.dtype[Any]) -> dict[str, np.ndarray]:
    """Return what draw.c reads of bars; of bars by themselves, it works out how long they lasted."""
    known = _KINDS if isinstance(found, Drawn) else ("start", "end")
    columns = {name: np.ascontiguousarray(getattr(found, name), _KINDS[name]) for name in known}
    return columns | {"label": np.ascontiguousarray(found.label, label)}
