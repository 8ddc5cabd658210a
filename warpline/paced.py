"""A sample trace in the order of its time, as it came: slices of all tables, at a speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from warpline import sample
from warpline.batch import Batch
from warpline.sample import Manifest
from warpline.schema import Table

_SLICE_S = 0.2
"""Wall time between two slices: as often as a collector sends."""


def slices(directory: Path, found: Manifest, length_ns: int, shift_ns: int = 0) -> Iterator[tuple[int, list[Batch]]]:
    """Yield the end of each slice of time, `length_ns` long, with the rows that began in it, all moved by `shift_ns`.

    What began before the trace (processes, pods) is in the first slice. Memory holds one row group of each table. Raises
    SourceError where a file is missing or damaged.
    """
    tables = [_InOrder(directory, found, name, shift_ns) for name in found.rows]
    end_ns = found.start_ns + shift_ns
    while tables:
        end_ns += length_ns
        yield end_ns, [batch for table in tables for batch in table.until(end_ns)]
        tables = [table for table in tables if not table.done]


def sent(
    directory: Path,
    found: Manifest,
    speed: float,
    send: Callable[[list[Batch]], None],
    shift_ns: int = 0,
) -> None:
    """Send a sample trace's slices at `speed` times the pace at which it happened; where sending is slower, it lags."""
    began_s, start_ns = time.monotonic(), found.start_ns + shift_ns
    for end_ns, batches in slices(directory, found, int(_SLICE_S * speed * 1e9), shift_ns):
        time.sleep(max(began_s + (end_ns - start_ns) / 1e9 / speed - time.monotonic(), 0))
        if batches:
            send(batches)


class _InOrder:
    """One table's rows, taken from the front."""

    def __init__(self, directory: Path, found: Manifest, name: str, shift_ns: int) -> None:
        self._parts = sample.rows_of(directory, name, shift_ns)
        self._left: Batch | None = next(self._parts, None)

    @property
    def done(self) -> bool:
        """Whether all rows were taken."""
        return self._left is None

    def until(self, end_ns: int) -> Iterator[Batch]:
        """Yield the rows that began before `end_ns`."""
        while self._left is not None:
            table, rows = self._left.table, self._left.rows
            count = _before(table, rows, end_ns)
            if count:
                yield Batch(table, rows.slice(0, count))
            if count < rows.num_rows:
                self._left = Batch(table, rows.slice(count))
                return
            self._left = next(self._parts, None)


def _before(table: Table, rows: pa.RecordBatch, end_ns: int) -> int:
    """Return how many rows, which are sorted, began before `end_ns`."""
    return int(np.searchsorted(rows[table.time].to_numpy(), end_ns))
