"""What a batch becomes before it is stored: rows that fit the declaration, cut at midnight (UTC)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from warpline.batch import Batch
from warpline.errors import SchemaError
from warpline.schema import Table

NS_PER_DAY = 86_400_000_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one batch that fall on one day, and their least and greatest time."""

    table: Table
    batch_id: str
    rows: pa.Table
    low_ns: int
    high_ns: int


def split(table: Table, batches: Sequence[Batch]) -> Iterator[tuple[int, Part]]:
    """Yield the rows of batches that all fit `table`, each with the day (since 1970-01-01) that they fall on.

    Raises SchemaError, before the first, where the rows of any batch do not fit.
    """
    found = [(batch.batch_id, _shaped(table, batch.rows)) for batch in batches if batch.rows.num_rows]
    if not found:
        return
    whole = pa.Table.from_batches([rows for _, rows in found])
    _check(table, whole)
    times = whole[table.time].to_numpy()
    ends = np.cumsum([rows.num_rows for _, rows in found])
    begins = ends - [rows.num_rows for _, rows in found]
    bounds = np.minimum.reduceat(times, begins).tolist(), np.maximum.reduceat(times, begins).tolist()
    for (batch_id, rows), begin, end, low, high in zip(found, begins, ends, *bounds, strict=True):
        part = Part(table, batch_id, pa.Table.from_batches([rows]), low, high)
        if low // NS_PER_DAY == high // NS_PER_DAY:
            yield low // NS_PER_DAY, part
        else:
            yield from _cut(part, times[begin:end])


def _cut(part: Part, times: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Iterator[tuple[int, Part]]:
    days = times // NS_PER_DAY
    for number in np.unique(days).tolist():
        mine = days == number
        low, high = int(times[mine].min()), int(times[mine].max())
        yield number, Part(part.table, part.batch_id, part.rows.filter(pa.array(mine)), low, high)


def _shaped(table: Table, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows with the columns of the declaration: those that an older sender lacks are NULL, unknown ones go.

    Raises SchemaError where one has another type.
    """
    if rows.schema.equals(table.arrow):
        return rows
    return table.batch({name: rows[name] for name in rows.schema.names if name in table.by_name}, rows.num_rows)


def _check(table: Table, rows: pa.Table) -> None:
    """Raise SchemaError where a required column has a NULL, or the rows are not what Arrow's layout says."""
    for column in table.columns:
        if column.required and rows[column.name].null_count:
            raise SchemaError(f"table {table.name}, column {column.name}: is NULL in some rows, and may not be")
    try:
        rows.validate(full=True)
    except pa.ArrowInvalid as error:
        raise SchemaError(f"table {table.name}: {error}") from None
