"""What a reader has found before it is known when the recording began or which step made what: three kinds of rows.

They wait in temporary files on disk, compressed, so that a recording of any size is read in bounded memory and nothing
of it leaves before all of it was understood.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa

_NAME = pa.dictionary(pa.int32(), pa.string())

CALL = pa.schema(
    {
        "start": pa.int64(),
        "end": pa.int64(),
        "pid": pa.int64(),
        "thread": pa.int64(),
        "correlation": pa.int64(),
        "api": _NAME,
        "stream": pa.int64(),
        "kernel": _NAME,
        "graph": pa.int64(),
        "result": pa.int64(),
    }
)
"""One call of a CUDA, HIP or MTIA runtime or driver function, whether or not it enqueues work."""

EXECUTION = pa.schema(
    {
        "start": pa.int64(),
        "end": pa.int64(),
        "pid": pa.int64(),
        "device": _NAME,
        "context": pa.int64(),
        "stream": pa.int64(),
        "correlation": pa.int64(),
        "graph": pa.int64(),
        "graph_node": pa.int64(),
        "name": _NAME,
        "kind": _NAME,
        "bytes": pa.int64(),
        "validity": _NAME,
        "grid": _NAME,
        "block": _NAME,
        "registers": pa.int64(),
        "shared": pa.int64(),
        "queued": pa.int64(),
        "communication": pa.string(),
    }
)
"""One execution on a GPU. `pid` is NULL where the recording does not tell the process."""

RANGE = pa.schema(
    {
        "start": pa.int64(),
        "end": pa.int64(),
        "pid": pa.int64(),
        "thread": pa.int64(),
        "kind": _NAME,
        "name": _NAME,
        "stream": pa.int64(),
        "device": _NAME,
        "details": pa.string(),
    }
)
"""One named range on a host thread or, where `device` is given, on a GPU's stream."""


Part = tuple[int, int]
WHOLE: Part = (0, 1)
"""Part i of n of the rows: those whose correlation id leaves i when divided by n: a launch stays with its executions."""


def column(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    """Return a column: NULLs for None, a constant for a scalar, else the values in Arrow's form."""
    if value is None:
        return pa.nulls(rows, kind)
    if isinstance(value, (str, int)):
        if pa.types.is_dictionary(kind):
            return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value], pa.string()))
        return pa.repeat(pa.scalar(value, kind), rows)
    if pa.types.is_dictionary(kind):
        if isinstance(value, pa.DictionaryArray):
            return value.cast(kind)
        return pa.array(value, pa.string()).dictionary_encode()
    return pa.array(value, kind)


def batch(schema: pa.Schema, rows: int, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Return rows of one of the three kinds; columns left out are NULL."""
    return pa.RecordBatch.from_arrays(
        [column(columns.get(each.name), each.type, rows) for each in schema], schema=schema
    )


class Spill:
    """Batches of one schema on disk: appended first, then read, as often as wanted."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema, self.rows = schema, 0
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="warpline-import-")  # noqa: SIM115  # lives as long as this
        self._writer: Any = pa.ipc.new_stream(
            self._file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4", emit_dictionary_deltas=False)
        )

    def append(self, found: pa.RecordBatch) -> None:
        """Add rows."""
        if found.num_rows:
            self._writer.write_batch(found)
            self.rows += found.num_rows

    def read(self, columns: list[str] | None = None, part: Part = WHOLE) -> Iterator[pa.RecordBatch]:
        """Yield the batches in the order appended; nothing can be appended after the first read."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._file.seek(0)
        index, count = part
        wanted = [self.schema.get_field_index(each) for each in columns or self.schema.names]
        if count > 1:
            wanted.append(self.schema.get_field_index("correlation"))
        for found in pa.ipc.open_stream(self._file, options=pa.ipc.IpcReadOptions(included_fields=sorted(set(wanted)))):
            if count > 1:
                correlation = found["correlation"].fill_null(-1).to_numpy(zero_copy_only=False)
                found = found.filter(pa.array(correlation % count == index))
            yield found.select(columns) if columns else found

    def numbers(self, *columns: str, part: Part = WHOLE) -> list[np.ndarray]:
        """Return whole columns as int64 arrays, NULL as -1."""
        parts: list[list[np.ndarray]] = [[] for _ in columns]
        for found in self.read(list(columns), part):
            for into, each in zip(parts, columns, strict=True):
                into.append(found.column(each).fill_null(-1).to_numpy(zero_copy_only=False))
        return [np.concatenate(each) if each else np.empty(0, np.int64) for each in parts]

    def close(self) -> None:
        """Drop the rows."""
        self._file.close()
