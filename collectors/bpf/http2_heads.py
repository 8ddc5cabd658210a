"""Header blocks of HTTP/2, put together from their parts and decoded, one table a connection and direction.

A block is the fragments of a HEADERS or PUSH_PROMISE frame and of its CONTINUATIONs without padding and priority (RFC 9113
sections 4.3 and 6.2). HPACK (RFC 7541) compresses against what the connection sent before, so that each block has to be
decoded, in order, and by Python: about 30 µs for a request's of ten fields, and less than 3 µs for one that was met before
and changes no table, as most responses are. Only fields on the allow-list are told; all others stay in the table, which goes
with its connection.

Where the start of a connection, or a part of it, was not seen, references to the dynamic table are not known, and the head
is marked as partial; what static entries and literals say is told nevertheless. The table is known again once its encoder
empties it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from hpack import Decoder, HPACKError
from hpack.table import HeaderTable

BLOCK_BYTES = 256
BLOCK = np.dtype(
    [
        *((name, "<u8") for name in ("connection", "id", "now_ns")),
        *((name, "<u4") for name in ("stream", "number")),
        ("length", "<u2"),
        *((name, "u1") for name in ("way", "type", "flags", "begins", "ends", "joined")),
        ("data", "u1", (BLOCK_BYTES,)),
    ]
)
"""struct block of http_state.bpf.h."""
NONE, PARTIAL, FULL = 0, 1, 2
"""How much of a request's head could be read: indices of http_rows.PARSES."""

_HEADERS, _PROMISE, _CONTINUATION, _CLOSING = 1, 5, 9, 255
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 32
_REQUEST = 0
_MOST_TABLE, _MOST_BLOCK = 1 << 16, 1 << 17
"""Bytes of a dynamic table, and of a block, that are followed; encoders use 4,096 unless they are told otherwise."""
_MOST_CONNECTIONS, _MOST_REMEMBERED = 16384, 64
_MOST_VALUE, _FINAL = 256, 200
_WANTED = frozenset(
    (b":method", b":path", b":authority", b":status", b"traceparent", b"x-request-id", b"content-type", b"grpc-status")
)
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}", re.IGNORECASE)
_METHOD = re.compile(rb"[A-Z]{1,32}")
_NUMBER = re.compile(rb"[0-9]{1,9}")
_NOT_SEEN = (b"", b"")
_PRINTABLE = bytes(each if 32 <= each < 127 else ord("?") for each in range(256))

Records = npt.NDArray[Any]
Fields = dict[bytes, bytes]


@dataclass(slots=True)
class Head:
    """What the header blocks of one exchange say; None where they do not."""

    method: str | None = None
    path: str | None = None
    host: str | None = None
    request_id: str | None = None
    trace_id: bytes | None = None
    parent_span_id: int | None = None
    status: int | None = None
    response_ns: int = 0
    """When the response's head began (CLOCK_MONOTONIC): the first that is not interim; 0 where none came."""
    grpc_status: int | None = None
    grpc: bool = False
    parse: int = NONE

    def take_request(self, fields: Fields, known: bool, path_bytes: int) -> None:
        """Add what a block of the request says: the first one is its head, a second one a trailer."""
        if self.parse != NONE:
            return
        self.parse = FULL if known else PARTIAL
        self.grpc = self.grpc or _is_grpc(fields)
        method = fields.get(b":method", b"")
        self.method = method.decode("ascii") if _METHOD.fullmatch(method) else None
        self.path = _text(fields.get(b":path", b"").partition(b"?")[0], path_bytes)
        self.host = _text(fields.get(b":authority"))
        self.request_id = _text(fields.get(b"x-request-id"))
        traced = _TRACEPARENT.match(fields.get(b"traceparent", b""))
        if traced:
            self.trace_id, self.parent_span_id = bytes.fromhex(traced[1].decode()), int(traced[2], 16)

    def take_response(self, fields: Fields, time_ns: int) -> None:
        """Add what a block of the response says, begun at `time_ns`: interim answers, its head, its trailer."""
        self.grpc = self.grpc or _is_grpc(fields)
        status = _number(fields.get(b":status"))
        if status is not None and status >= _FINAL and self.status is None:
            self.status, self.response_ns = status, time_ns
        if self.grpc_status is None:
            self.grpc_status = _number(fields.get(b"grpc-status"))


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection that ended, when (CLOCK_MONOTONIC), and how often it had sent segments again by then."""

    connection: int
    end_ns: int
    retransmits: int


class _Table(HeaderTable):
    """A header table that may not be known."""

    def __init__(self) -> None:
        super().__init__()
        self.known = True
        self.changes = 0

    def forget(self) -> None:
        """Nothing that the table holds is known from here on."""
        size, self.known = self.maxsize, False
        self.maxsize = 0
        self.maxsize = size
        self.changes += 1

    def get_by_index(self, index: int) -> tuple[bytes, bytes]:
        """Return the entry; one without name and value where it is not known."""
        if self.known or 0 < index <= self.STATIC_TABLE_LENGTH:
            return super().get_by_index(index)
        return _NOT_SEEN

    def add(self, name: bytes, value: bytes) -> None:
        """Take an entry; while the table is not known, nor how many entries fit in it, it stays so."""
        self.changes += 1
        if self.known:
            super().add(name, value)

    def resize(self, size: int) -> None:
        """Take the size that the encoder chose; 0 empties the table at both ends."""
        self.changes += 1
        self.known = self.known or size == 0
        self.maxsize = size


class _Decoder(Decoder):
    """HPACK's decoder with such a table. Sizes come as they change, within the blocks (RFC 7541 section 4.2)."""

    header_table: _Table

    def __init__(self) -> None:
        super().__init__()
        self.header_table = _Table()
        self.max_allowed_table_size = _MOST_TABLE

    @property
    def header_table_size(self) -> int:
        """The table's size in bytes."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        self.header_table.resize(value)


@dataclass(slots=True)
class _Direction:
    """One direction of one connection."""

    number: int = 0
    frame: bytearray = field(default_factory=bytearray)
    block: bytearray | None = None
    promised: bool = False
    began_ns: int = 0
    decoder: _Decoder = field(default_factory=_Decoder)
    remembered: dict[bytes, Fields] = field(default_factory=dict)

    def forget(self) -> None:
        """A part was not seen: whatever came with it is unknown."""
        self.block = None
        self.decoder.header_table.forget()
        self.remembered.clear()

    def part(self, kind: int, flags: int, begins: int, ends: int, data: bytes) -> bytes | None:
        """Take a part of a frame; return the block that it completes."""
        if begins:
            self.frame.clear()
            if kind != _CONTINUATION:
                self.block, self.promised = bytearray(), kind == _PROMISE
        self.frame += data
        if not ends or self.block is None:
            return None
        payload, start, padding = self.frame, 0, 0
        if kind != _CONTINUATION and flags & _PADDED and payload:
            start, padding = 1, payload[0]
        start += 5 if kind == _HEADERS and flags & _PRIORITY else 4 if kind == _PROMISE else 0
        self.block += payload[start : len(payload) - padding]
        if len(self.block) > _MOST_BLOCK:
            self.forget()
            return None
        if not flags & _END_HEADERS:
            return None
        whole, self.block = bytes(self.block), None
        return whole

    def decode(self, block: bytes) -> tuple[Fields, bool, bool]:
        """Return the wanted fields of a block, whether the table was known, and whether it could be decoded."""
        table = self.decoder.header_table
        known = table.known
        found = self.remembered.get(block)
        if found is not None:
            return found, known, True
        changes = table.changes
        try:
            # The first of several fields of one name is told, as for HTTP/1.
            fields = {
                name: value for name, value in reversed(list(self.decoder.decode(block, raw=True))) if name in _WANTED
            }
        except HPACKError:
            self.forget()
            return {}, False, False
        if table.changes != changes:
            self.remembered.clear()
        elif len(self.remembered) < _MOST_REMEMBERED:
            self.remembered[block] = fields
        return fields, known and table.known, True


class Heads:
    """The heads of exchanges that have not ended, and the tables of connections that live."""

    def __init__(self, path_bytes: int) -> None:
        """Tell paths up to `path_bytes`."""
        self._path_bytes = path_bytes
        self._directions: OrderedDict[int, tuple[_Direction, _Direction]] = OrderedDict()
        self._heads: dict[int, Head] = {}
        self.not_understood = 0
        """Blocks that are no HPACK, since it was last set to 0."""

    def add(self, parts: Records) -> list[Closed]:
        """Take parts of blocks (BLOCK), in the order made; return the connections that ended."""
        closed: list[Closed] = []
        data = np.ascontiguousarray(parts["data"]).tobytes()
        columns = [parts[name].tolist() for name in (BLOCK.names or ())[:-1]]
        for place, (connection, exchange, now, _, number, length, way, kind, flags, begins, ends, joined) in enumerate(
            zip(*columns, strict=True)
        ):
            if kind == _CLOSING:
                self._directions.pop(connection, None)
                closed.append(Closed(connection, now, number))
                continue
            direction = self._direction(connection, bool(joined))[way]
            if number != direction.number or not kind:
                direction.forget()
            direction.number = number + 1
            if begins and kind != _CONTINUATION:
                direction.began_ns = now
            start = place * BLOCK_BYTES
            block = direction.part(kind, flags, begins, ends, data[start : start + length])
            if block is not None:
                self._whole(direction, block, exchange, way == _REQUEST)
        return closed

    def keep(self, connections: set[int]) -> None:
        """Forget the tables of all other connections."""
        for each in self._directions.keys() - connections:
            del self._directions[each]

    def of(self, exchanges: Records) -> list[Head]:
        """Return the heads of the exchanges with these ids, which go; an empty one where none came."""
        return [self._heads.pop(each, Head()) for each in exchanges.tolist()]

    def drop_before(self, oldest: int) -> int:
        """Forget all but the newest `oldest` heads; return how many were dropped."""
        dropped = list(self._heads)[: max(len(self._heads) - oldest, 0)]
        for each in dropped:
            del self._heads[each]
        return len(dropped)

    def _direction(self, connection: int, joined: bool) -> tuple[_Direction, _Direction]:
        found = self._directions.get(connection)
        if found is None:
            found = self._directions[connection] = (_Direction(), _Direction())
            for each in found if joined else ():
                each.forget()
            if len(self._directions) > _MOST_CONNECTIONS:
                self._directions.popitem(last=False)
        return found

    def _whole(self, direction: _Direction, block: bytes, exchange: int, of_request: bool) -> None:
        fields, known, understood = direction.decode(block)
        self.not_understood += not understood
        if exchange and not direction.promised:
            head = self._heads.get(exchange)
            if head is None:
                head = self._heads[exchange] = Head()
            if of_request:
                head.take_request(fields, known, self._path_bytes)
            else:
                head.take_response(fields, direction.began_ns)


def _is_grpc(fields: Fields) -> bool:
    return fields.get(b"content-type", b"").startswith(b"application/grpc")


def _number(digits: bytes | None) -> int | None:
    return int(digits) if digits and _NUMBER.fullmatch(digits) else None


def _text(value: bytes | None, most: int = _MOST_VALUE) -> str | None:
    return value[:most].translate(_PRINTABLE).decode("ascii") if value else None
