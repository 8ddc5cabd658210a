"""Reading an HTTP request's body within bounds: Content-Length or chunks, plain or compressed."""

from __future__ import annotations

import io
import zlib
from email.message import Message
from typing import BinaryIO

import pyarrow as pa

from warpline.otlp import Malformed

_LINE = 4096
_TRAILERS = 64
_PIECE = 1 << 20


class TooLarge(Malformed):
    """A body beyond the limit, as sent or after decompression."""


class Broken(Malformed):
    """A body that ends before it is whole, or whose framing is wrong: the connection is of no further use."""


def announced(headers: Message[str, str]) -> int | None:
    """Return the body's announced length in bytes, None for chunks; raise Broken where the headers contradict themselves."""
    coding = headers.get("Transfer-Encoding")
    length = headers.get("Content-Length")
    if coding is not None:
        if coding.strip().lower() != "chunked" or length is not None:
            raise Broken(
                f"transfer-encoding {coding!r} with content-length {length!r}; send one of chunked and a length"
            )
        return None
    text = (length or "0").strip()
    if not (text.isascii() and text.isdigit()):
        raise Broken(f"content-length {text[:40]!r}: is no length; give bytes")
    return int(text)


def read(stream: BinaryIO, length: int | None, limit: int) -> bytes:
    """Return the body as it was sent; raise TooLarge beyond `limit` bytes, Broken where it ends early."""
    if length is None:
        return _chunks(stream, limit)
    if length > limit:
        raise TooLarge(f"body of {length} bytes is above {limit}; send smaller batches")
    body = stream.read(length)
    if len(body) < length:
        raise Broken(f"body ends after {len(body)} of {length} bytes")
    return body


def _chunks(stream: BinaryIO, limit: int) -> bytes:
    body = bytearray()
    while True:
        line = stream.readline(_LINE)
        text = line.partition(b";")[0].strip()
        try:
            size = int(text, 16) if text.isalnum() and line.endswith(b"\n") else -1
        except ValueError:
            size = -1
        if size < 0:
            raise Broken(f"chunk begins with {line[:20]!r}; give its length in hex")
        if len(body) + size > limit:
            raise TooLarge(f"body is above {limit} bytes; send smaller batches")
        if size == 0:
            break
        piece = stream.read(size)
        if len(piece) < size or stream.read(2) != b"\r\n":
            raise Broken(f"chunk of {size} bytes ends early")
        body += piece
    for _ in range(_TRAILERS):
        line = stream.readline(_LINE)
        if line in (b"\r\n", b"\n"):
            return bytes(body)
        if not line.endswith(b"\n"):
            break
    raise Broken("trailers do not end")


def decompressed(body: bytes, coding: str, limit: int) -> bytes:
    """Return the body decompressed; raise TooLarge beyond `limit`, Malformed for a coding that is unknown or broken."""
    name = coding.strip().lower()
    if name in ("", "identity"):
        return body
    if name in ("gzip", "x-gzip", "deflate"):
        return _inflated(body, 31 if name != "deflate" else 15, limit)
    if name == "zstd":
        return _zstd(body, limit)
    raise Malformed(f"content-encoding {coding[:40]!r}: is unknown; use gzip, deflate, zstd or none")


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    """Inflate member after member, never producing more than one byte beyond the limit."""
    found = bytearray()
    rest = body
    while rest:
        member = zlib.decompressobj(window)
        try:
            found += member.decompress(rest, limit + 1 - len(found))
        except zlib.error as error:
            raise Malformed(f"body is not what its content-encoding says: {error}") from None
        if len(found) > limit:
            raise TooLarge(f"body is above {limit} bytes after decompression; send smaller batches")
        if not member.eof:
            raise Malformed("compressed body ends early")
        rest = member.unused_data
    return bytes(found)


def _zstd(body: bytes, limit: int) -> bytes:
    found = io.BytesIO()
    try:
        with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
            while piece := stream.read(_PIECE):
                found.write(piece)
                if found.tell() > limit:
                    raise TooLarge(f"body is above {limit} bytes after decompression; send smaller batches")
    except (OSError, pa.ArrowException) as error:
        raise Malformed(f"body is not what its content-encoding says: {str(error)[:120]}") from None
    return found.getvalue()
