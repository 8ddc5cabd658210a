"""Putting all bars of a scope in their places as they are read, by row and start."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from correlator.timeline import timeline_draw
from correlator.timeline.timeline_catalogue import OWNS, Catalogue, narrow
from correlator.timeline.timeline_levels import first_of
from correlator.timeline.timeline_lod import Bars
from correlator.timeline.timeline_preview import Preview


def placed(catalogue: Catalogue, batches: Iterable[pa.RecordBatch], preview: Preview | None = None) -> Bars:
    """Return the bars of view `timeline_bar` by row and start; rows and names that the catalogue does not know are left out.

    Each batch goes to its place as it comes, so that loading takes no more memory than what is kept; what is drawn of it is
    seen in `preview`, which only draw.c fills.
    """
    counts = catalogue.counts
    first = np.concatenate([[0], np.cumsum(counts)])
    filled = np.zeros(len(counts), np.int64) if preview is None else preview.filled
    bars = _room(catalogue)
    if timeline_draw.library is None:
        for batch in batches:
            _put(bars, first, filled, catalogue.read(batch, 0))
    else:
        _put_all(bars, first, filled, catalogue, batches, preview)
    for begin, end in zip(first[:-1].tolist(), (first[:-1] + filled).tolist(), strict=True):
        _sort(bars, begin, end)
    if (filled == counts).all():
        return bars
    return bars.take(np.arange(len(bars)) - np.repeat(first[:-1], counts) < np.repeat(filled, counts))


def _room(catalogue: Catalogue) -> Bars:
    """Return bars whose rows are set and nothing else."""
    counts = catalogue.counts
    row = np.repeat(narrow(np.arange(len(counts)), len(counts)), counts)
    labels = narrow(np.zeros(0, np.int64), len(catalogue.names) * OWNS).dtype
    return Bars(row, np.empty(len(row), np.int64), np.empty(len(row), np.int64), np.empty(len(row), labels))


def _put(bars: Bars, first: np.ndarray, filled: np.ndarray, part: Bars) -> None:
    begins = first_of(part.row, len(filled))
    # What came after the rows were counted has no place.
    sizes = np.minimum(np.diff(begins), np.diff(first) - filled)
    for at in np.flatnonzero(sizes).tolist():
        size, to, since = int(sizes[at]), int(first[at] + filled[at]), int(begins[at])
        for into, out in ((bars.start, part.start), (bars.end, part.end), (bars.label, part.label)):
            into[to : to + size] = out[since : since + size]
    filled += sizes


def _put_all(
    bars: Bars,
    first: np.ndarray,
    filled: np.ndarray,
    catalogue: Catalogue,
    batches: Iterable[pa.RecordBatch],
    preview: Preview | None,
) -> None:
    row_ids, name_ids = catalogue.row_ids, catalogue.name_ids
    held = {"row_ids": row_ids, "name_ids": name_ids, "first": first, "filled": filled}
    held |= {"start": bars.start, "end": bars.end, "label": bars.label}
    pointers = {name: each.ctypes.data for name, each in held.items()}
    sizes = {"rows": len(row_ids), "names": len(name_ids), "owns": OWNS, "label_size": bars.label.itemsize}
    places = timeline_draw.Places(**pointers, **sizes)
    if preview is not None:
        places.grid = ctypes.addressof(preview.grid)
    for batch in batches:
        columns = [batch[name].to_numpy() for name in ("row_id", "name_id", "start_ns", "end_ns", "own")]
        timeline_draw.library.warpline_place(
            ctypes.byref(places), batch.num_rows, *(column.ctypes.data for column in columns), 0
        )


def _sort(bars: Bars, begin: int, end: int) -> None:
    """Put one row's bars in order of their start, where they are not: one stream's mostly are."""
    start = bars.start[begin:end]
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")
        for column in (bars.end, bars.label, bars.start):
            column[begin:end] = column[begin:end][order]
