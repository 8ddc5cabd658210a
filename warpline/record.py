"""One batch as the spool keeps it: a checksummed record, and how records are found again in a damaged segment.

Layout, little-endian: magic `WLR1`, length of what follows the header (u32), CRC-32 of that (u32; it begins from the
number), number of the record in its spool (u64); then the lengths of the table's name (u16) and of the batch id (u16), both
texts, and an Arrow IPC stream (lz4). The number tells how many records are missing where bytes are damaged.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import ipc

from warpline import schema
from warpline.batch import Batch
from warpline.errors import SchemaError

MAGIC = b"WLR1"
HEADER = struct.Struct("<4sIIQ")
_NAMES = struct.Struct("<HH")
_LONGEST = 1 << 30  # A batch is megabytes; a length beyond this is damage.
_LZ4 = ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_ONE_THREAD = ipc.IpcReadOptions(use_threads=False)


@dataclass(frozen=True, slots=True)
class Found:
    """One intact record: its number, and where it starts and ends in its segment."""

    number: int
    start: int
    end: int


def pack(batch: Batch) -> tuple[bytes, pa.Buffer]:
    """Return the names and the Arrow body that a record of `batch` holds after its header."""
    table, batch_id = batch.table.name.encode(), batch.batch_id.encode()
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, batch.rows.schema, options=_LZ4) as writer:
        writer.write_batch(batch.rows)
    return _NAMES.pack(len(table), len(batch_id)) + table + batch_id, sink.getvalue()


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
        with ipc.open_stream(pa.py_buffer(payload[at + id_length :]), options=_ONE_THREAD) as reader:
            rows = reader.read_next_batch()
    except (pa.ArrowInvalid, StopIteration) as error:
        raise SchemaError(f"spool: a batch of table {table.name} cannot be read: {error}") from None
    return Batch(table, rows, batch_id)


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
