"""One batch as the spool keeps it: a checksummed record, and how records are found again in a damaged segment.

Layout, little-endian: magic `WLR2`, length of what follows the header (u32), CRC-32 of that (u32; it begins from the
number), number of the record in its spool (u64); then the lengths of the table's name (u16) and of the batch id (u16), both
texts, and the body: an Arrow IPC stream of ids, texts and times, another of all other columns as one lz4 block, the first
one's length and that of the second before it was compressed (u32 each). Columns without a value are left out. The number
tells how many records are missing where bytes are damaged.

Why two streams: ids and texts are two thirds of a span and lz4 makes them 15 % smaller at best, for two thirds of its time
(8192 spans: 213 ns and 136 bytes a span in one stream, 85 ns and 176 bytes in two). Times differ in their low bytes, which
spoils lz4's pace for 2 of 8 bytes. Why one block: a block for each of 60 buffers costs a batch of 512 spans as much again.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pyarrow as pa
from pyarrow import ipc

from warpline import schema
from warpline.batch import Batch
from warpline.errors import SchemaError
from warpline.schema import Table, Type

MAGIC = b"WLR2"
HEADER = struct.Struct("<4sIIQ")
_NAMES = struct.Struct("<HH")
_LONGEST = 1 << 30  # A batch is megabytes; a length beyond this is damage.
_LENGTHS = struct.Struct("<II")
_LZ4 = pa.Codec("lz4_raw")
_ONE_THREAD = ipc.IpcWriteOptions(use_threads=False)
_READ_ONE_THREAD = ipc.IpcReadOptions(use_threads=False)
_DENSE = (Type.TRACE_ID, Type.SPAN_ID, Type.TEXT)
"""Types of columns that compression gains little on."""


@dataclass(frozen=True, slots=True)
class Found:
    """One intact record: its number, and where it starts and ends in its segment."""

    number: int
    start: int
    end: int


def pack(batch: Batch) -> tuple[bytes, pa.Buffer]:
    """Return the names and the body that a record of `batch` holds after its header."""
    table, batch_id = batch.table.name.encode(), batch.batch_id.encode()
    rows = batch.rows
    filled = [n for n, a in zip(rows.schema.names, rows.columns, strict=True) if a.null_count < len(a) or not len(a)]
    dense, others = _parts(batch.table.name, tuple(filled))
    sink = pa.BufferOutputStream()
    if dense:
        _write(sink, rows.select(dense))
    length = sink.tell()
    plain = pa.BufferOutputStream()
    _write(plain, rows.select(others))
    found = plain.getvalue()
    sink.write(_LZ4.compress(found))
    sink.write(_LENGTHS.pack(length, found.size))
    return _NAMES.pack(len(table), len(batch_id)) + table + batch_id, sink.getvalue()


@cache
def _parts(table: str, columns: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the columns that are kept as they are, and those that are compressed."""
    declared = schema.table(table).by_name
    dense = [n for n in columns if n in declared and (declared[n].type in _DENSE or n.endswith("_ns"))]
    return dense, [name for name in columns if name not in dense]


def _write(sink: pa.BufferOutputStream, rows: pa.RecordBatch) -> None:
    with ipc.new_stream(sink, rows.schema, options=_ONE_THREAD) as writer:
        writer.write_batch(rows)


def header(number: int, names: bytes, body: pa.Buffer) -> bytes:
    """Return the header of record `number`."""
    return HEADER.pack(MAGIC, len(names) + body.size, zlib.crc32(body, zlib.crc32(names, _seed(number))), number)


def _seed(number: int) -> int:
    return (number ^ number >> 32) & 0xFFFFFFFF


def unpack(payload: memoryview) -> Batch:
    """Return the batch of an intact record.

    Raises SchemaError where its table is not declared any more or its rows do not fit the declaration.
    """
    table_length, id_length = _NAMES.unpack_from(payload)
    at = _NAMES.size + table_length
    table = schema.table(bytes(payload[_NAMES.size : at]).decode())
    batch_id = bytes(payload[at : at + id_length]).decode()
    try:
        rows = _read(table, payload[at + id_length :].tobytes())  # A copy, for Arrow wants it aligned.
    except (pa.ArrowException, OSError, StopIteration, struct.error) as error:
        raise SchemaError(f"spool: a batch of table {table.name} cannot be read: {error}") from None
    return Batch(table, rows, batch_id)


def _read(table: Table, body: bytes) -> pa.RecordBatch:
    """Return the rows of a body: the columns in the order declared, those that are not declared any more behind them.

    A declared column that it has not is NULL.
    """
    length, plain = _LENGTHS.unpack_from(body, len(body) - _LENGTHS.size)
    whole = pa.py_buffer(body)
    streams = [_LZ4.decompress(whole[length : -_LENGTHS.size], plain)] + ([whole[:length]] if length else [])
    columns: dict[str, tuple[pa.Field, pa.Array]] = {}
    for stream in streams:
        with ipc.open_stream(stream, options=_READ_ONE_THREAD) as reader:
            rows = reader.read_next_batch()
        columns |= {field.name: (field, array) for field, array in zip(rows.schema, rows.columns, strict=True)}
    for field in table.arrow:
        columns.setdefault(field.name, (field, pa.nulls(rows.num_rows, field.type)))
    order = [*table.by_name, *(name for name in columns if name not in table.by_name)]
    fields, arrays = zip(*(columns[name] for name in order), strict=True)
    return pa.RecordBatch.from_arrays(list(arrays), schema=pa.schema(fields))


def scan(segment: memoryview, start: int) -> Iterator[Found]:
    """Yield the intact records from `start` on, passing over what is damaged.

    A record whose bytes were changed is skipped by its length; where the length itself is damaged, by the next magic.
    """
    at = start
    while at + HEADER.size <= len(segment):
        found = _intact(segment, at)
        if found is not None:
            yield found
            at = found.end
        else:
            at = _next_magic(segment, at + 1)


def _intact(segment: memoryview, at: int) -> Found | None:
    magic, length, checksum, number = HEADER.unpack_from(segment, at)
    end = at + HEADER.size + length
    if magic != MAGIC or length < _NAMES.size or length > _LONGEST or end > len(segment):
        return None
    if zlib.crc32(segment[at + HEADER.size : end], _seed(number)) != checksum:
        return None
    return Found(number, at, end)


def _next_magic(segment: memoryview, at: int) -> int:
    window = 1 << 20
    while at < len(segment):
        found = bytes(segment[at : at + window]).find(MAGIC)
        if found >= 0:
            return at + found
        at += window - len(MAGIC) + 1
    return len(segment)
