"""How much memory an Arrow IPC stream will take, read from its metadata before anything is decompressed.

pyarrow believes the uncompressed length that each lz4 or zstd buffer announces, so 3 MiB can ask for gigabytes. The
layout is Arrow's columnar format, "Encapsulated message format" and Message.fbs: a flatbuffer is walked by its vtables,
each offset checked.
"""

from __future__ import annotations

import struct

from warpline.errors import SchemaError

_CONTINUATION = 0xFFFFFFFF
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3  # Slots of Message.
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # Members of MessageHeader.
_MAX_MESSAGES = 1000


def check(stream: bytes, limit_bytes: int) -> None:
    """Raise SchemaError where `stream` is no sequence of IPC messages, or would take more than `limit_bytes`."""
    try:
        taken = _decompressed(stream)
    except (struct.error, IndexError) as error:
        raise SchemaError(f"body is not an Arrow IPC stream: {error}; send what `warpline.otlp.encode` makes") from None
    if taken > limit_bytes:
        raise SchemaError(f"body takes {taken} bytes decompressed, above {limit_bytes}; send smaller batches")


def _decompressed(stream: bytes) -> int:
    at = total = messages = 0
    while at < len(stream):
        marker, size = struct.unpack_from("<Ii", stream, at)
        if marker != _CONTINUATION:
            raise IndexError("message does not begin with its marker")
        if size == 0:
            return total
        begin = at + 8
        metadata = stream[begin : begin + size]
        kind, header, body_length = _message(metadata)
        body = begin + size
        messages += 1
        if size < 0 or body_length < 0 or body + body_length > len(stream) or messages > _MAX_MESSAGES:
            raise IndexError("message reaches beyond the body")
        if kind in (_DICTIONARY_BATCH, _RECORD_BATCH):
            total += _batch(metadata, header, kind, memoryview(stream)[body : body + body_length])
        at = body + body_length
    return total


def _message(metadata: bytes) -> tuple[int, int, int]:
    table = _unsigned(metadata, 0)
    kind, header, length = (_slot(metadata, table, each) for each in (_HEADER_TYPE, _HEADER, _BODY_LENGTH))
    body_length = struct.unpack_from("<q", metadata, length)[0] if length else 0
    return (metadata[kind] if kind else 0), (header + _unsigned(metadata, header) if header else 0), body_length


def _batch(metadata: bytes, table: int, kind: int, body: memoryview) -> int:
    if kind == _DICTIONARY_BATCH:
        data = _slot(metadata, table, 1)
        if not data:
            return 0
        table = data + _unsigned(metadata, data)
    buffers, compression = _slot(metadata, table, 2), _slot(metadata, table, 3)
    if not buffers:
        return 0
    vector = buffers + _unsigned(metadata, buffers)
    count = _unsigned(metadata, vector)
    if vector + 4 + 16 * count > len(metadata):
        raise IndexError("buffers reach beyond the metadata")
    regions = struct.iter_unpack("<qq", metadata[vector + 4 : vector + 4 + 16 * count])
    return sum(_region(body, offset, length, bool(compression)) for offset, length in regions)


def _region(body: memoryview, offset: int, length: int, compressed: bool) -> int:
    if offset < 0 or length < 0 or offset + length > len(body):
        raise IndexError("buffer reaches beyond the message")
    if not compressed or length < 8:
        return length
    announced = struct.unpack_from("<q", body, offset)[0]
    if announced < -1:
        raise IndexError("buffer announces a negative length")
    return length if announced == -1 else int(announced)


def _unsigned(metadata: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", metadata, at)[0])


def _slot(metadata: bytes, table: int, slot: int) -> int:
    """Return where a table's field stands, 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if vtable < 0:
        raise IndexError("vtable before the metadata")
    if 4 + 2 * slot >= struct.unpack_from("<H", metadata, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", metadata, vtable + 4 + 2 * slot)[0]
    return table + offset if offset else 0
