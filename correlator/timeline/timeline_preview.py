"""What is drawn of a whole scope while its bars are still being read: coarse, growing, and in the end exact."""

from __future__ import annotations

import ctypes

import numpy as np

from correlator.timeline import timeline_lod
from correlator.timeline.timeline_catalogue import Catalogue
from correlator.timeline.timeline_lod import Bars, Drawn

_WIDEST_BITS, _MOST_CELLS, _MOST_LONG = 12, 1 << 20, 1 << 16
"""Buckets across, as no screen is wider; cells of all rows, which bound its memory to 24 MB; bars of a bucket or more."""


class Grid(ctypes.Structure):
    """What draw.c writes of each bar that it puts in its place."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("level", "buckets")),
        *((name, ctypes.c_void_p) for name in ("busy", "longest", "count", "label")),
        *((name, ctypes.c_void_p) for name in ("long_row", "long_start", "long_end", "long_label")),
        *((name, ctypes.c_int64) for name in ("longs", "most_longs")),
    ]


class Preview:
    """One cell for each row and bucket of a scope, for what starts in it and is shorter; and a list of what is longer.

    One thread fills it, in C; others look at it, and may see a bar's count a moment before its time.
    """

    def __init__(self, catalogue: Catalogue, length_ns: int) -> None:
        """Make room for the rows of a scope that lasts `length_ns`."""
        rows = len(catalogue.row_ids)
        self.filled = np.zeros(rows, np.int64)
        self._bars = max(int(catalogue.counts.sum()), 1)
        buckets = max(min(1 << _WIDEST_BITS, _MOST_CELLS // max(rows, 1)), 1)
        self.level = max((length_ns // buckets).bit_length(), 1)
        self._buckets = (length_ns >> self.level) + 1
        cells = rows * self._buckets
        self._cells: dict[str, np.ndarray] = {
            "busy": np.zeros(cells, np.int64),
            "longest": np.zeros(cells, np.int64),
            "count": np.zeros(cells, np.int32),
            "label": np.zeros(cells, np.uint32),
        }
        self._longs: dict[str, np.ndarray] = {
            "long_row": np.zeros(_MOST_LONG, np.uint32),
            "long_start": np.zeros(_MOST_LONG, np.int64),
            "long_end": np.zeros(_MOST_LONG, np.int64),
            "long_label": np.zeros(_MOST_LONG, np.uint32),
        }
        pointers = {name: each.ctypes.data for name, each in (self._cells | self._longs).items()}
        self.grid = Grid(level=self.level, buckets=self._buckets, longs=0, most_longs=_MOST_LONG, **pointers)

    @property
    def share(self) -> float:
        """How much of the scope was read, from 0 to 1."""
        return float(self.filled.sum() / self._bars)

    def drawn(self) -> Drawn:
        """Return what is drawn of all bars that were read so far."""
        counts, longs = self._cells["count"].copy(), self.grid.longs  # They go on while this looks at them.
        held = np.flatnonzero(counts)
        row, bucket = np.divmod(held, self._buckets)
        start = bucket << self.level
        label, longest, busy = (self._cells[name][held] for name in ("label", "longest", "busy"))
        together = Drawn(row, start, start + (1 << self.level), label, longest, busy, counts[held])
        alone = Bars(*(each[:longs] for each in self._longs.values()))
        return timeline_lod.joined([together, timeline_lod.single(alone)])
