"""Scanning the events of a Chrome trace in bounded memory: `{…, "traceEvents": [event, …], …}`, or a bare `[event, …]`.

The bytes are cut between two events and each piece is parsed by orjson. A cut is tried where a piece *looks* complete;
that it parses as an array proves that the cut lay outside of strings and between events, because inside either it could
not have parsed. Where the guess fails (at the array's end, or in odd files) an exact scan of quotes and brackets finds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from collectors.recordings.files import Part
from warpline.errors import SourceError

Numbers = NDArray[Any]
PIECE_BYTES = 4 << 20
LARGEST_EVENT_BYTES = 64 << 20
_ARRAY = re.compile(rb'"traceEvents"\s*:\s*\[')
_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_NOT_JSON = re.compile(rb"(?<=[:,\[\s])-?(?:inf|nan|Infinity|NaN)\b")
_GUESS_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_DEEPEST = 1024
"""Of brackets in brackets: what orjson parses at most."""

_CLASS = np.zeros(256, np.int8)
_CLASS[[0x7B, 0x5B]] = 1  # { [
_CLASS[[0x7D, 0x5D]] = -1  # } ]
_CLASS[0x22] = 2  # "
_CLASS[0x2C] = 3  # ,


class EventScanner:
    """Reads one part. After `pieces` is exhausted, `metadata` holds what stood beside the events, and `unreadable` the
    number of events that were not JSON even alone."""

    def __init__(self, part: Part, piece_bytes: int = PIECE_BYTES) -> None:
        self.part, self.metadata, self.unreadable = part, {}, 0  # type: Part, dict[str, Any], int
        self._piece_bytes = piece_bytes
        self._rest = b""
        self._ended = False

    def pieces(self) -> Iterator[tuple[list[Any], bytes]]:
        """Yield the events of one piece and the bytes that they stood in. Raises SourceError for what is no such file."""
        is_object = self._find_array()
        while True:
            found = self._next()
            if found is None:
                break
            yield found
        if is_object:
            self._read_tail()

    def _more(self, size: int = 0) -> bool:
        piece = self.part.read(size or self._piece_bytes)
        self._rest += piece
        self._ended = not piece
        return bool(piece)

    def _find_array(self) -> bool:
        self._more()
        start = self._rest.lstrip(b"\xef\xbb\xbf \t\r\n")
        if start.startswith(b"["):
            self._rest = start[1:]
            return False
        if not start.startswith(b"{"):
            raise SourceError(f"{self.part.name}: is not JSON; give a PyTorch Kineto trace (.json or .json.gz)")
        self._rest = start
        while True:
            for match in _ARRAY.finditer(self._rest):
                if self._is_top_level(match.start()):
                    self._rest = self._rest[match.end() :]
                    return True
            if len(self._rest) > LARGEST_EVENT_BYTES or not self._more():
                raise SourceError(f"{self.part.name}: holds no traceEvents; it is no Kineto trace, or a piece of one")

    def _is_top_level(self, position: int) -> bool:
        try:
            self.metadata = orjson.loads(_NOT_JSON.sub(b"null", self._rest[:position]) + b'"":0}')
        except orjson.JSONDecodeError:
            return False
        self.metadata.pop("", None)
        return True

    def _next(self) -> tuple[list[Any], bytes] | None:
        """Return the next piece of events, or None once the array has ended; `_rest` is left behind the piece."""
        while True:
            if len(self._rest) < self._piece_bytes and not self._ended:
                self._more()
            found = self._guess()
            if found is not None:
                return found
            try:
                comma, end = _boundaries(self._rest)
            except ValueError as error:
                raise SourceError(f"{self.part.name}: {error}; it is no trace") from None
            if end >= 0:
                piece, self._rest = self._rest[:end], self._rest[end:]
                if not piece.strip():
                    return None
                return self._parse(piece), piece
            if comma >= 0:
                piece, self._rest = self._rest[:comma], self._rest[comma + 1 :]
                return self._parse(piece), piece
            if self._ended:
                raise SourceError(f"{self.part.name}: ends in the middle of an event; the file is incomplete")
            if len(self._rest) > LARGEST_EVENT_BYTES:
                raise SourceError(
                    f"{self.part.name}: one event is over {LARGEST_EVENT_BYTES >> 20} MiB; it is no trace"
                )
            self._double()

    def _double(self) -> None:
        """Read until there is twice as much: a rest that is scanned again and again must not cost its square."""
        self._more(max(self._piece_bytes, len(self._rest)))

    def _guess(self) -> tuple[list[Any], bytes] | None:
        low = max(0, len(self._rest) - _GUESS_BYTES)
        last = None
        for last in _BETWEEN.finditer(self._rest, low):  # noqa: B007  # the last match is what is wanted
            pass
        if last is None or self._ended:
            return None
        piece = self._rest[: last.start() + 1]
        try:
            events = orjson.loads(b"[" + piece + b"]")
        except orjson.JSONDecodeError:
            return None
        self._rest = self._rest[self._rest.index(b",", last.start()) + 1 :]
        return events, piece

    def _parse(self, piece: bytes) -> list[Any]:
        for attempt in (piece, _NOT_JSON.sub(b"null", piece)):
            try:
                return list(orjson.loads(b"[" + attempt + b"]"))
            except orjson.JSONDecodeError:
                continue
        return self._salvage(_NOT_JSON.sub(b"null", piece))

    def _salvage(self, piece: bytes) -> list[Any]:
        """Parse event by event, so that one damaged event (a stray byte in a name) costs itself alone."""
        events = []
        for each in _split(piece):
            try:
                events.append(orjson.loads(each.decode("utf-8", "replace")))
            except orjson.JSONDecodeError:
                self.unreadable += 1
        return events

    def _read_tail(self) -> None:
        while self._more():
            if len(self._rest) > LARGEST_EVENT_BYTES:
                raise SourceError(
                    f"{self.part.name}: {len(self._rest) >> 20} MiB follow the events; it is no Kineto trace"
                )
        tail = self._rest.strip()[1:].strip().removeprefix(b",")
        try:
            after = orjson.loads(b"{" + _NOT_JSON.sub(b"null", tail))
        except orjson.JSONDecodeError:
            raise SourceError(f"{self.part.name}: ends in the middle of its metadata; the file is incomplete") from None
        self.metadata.update(after)


@dataclass
class _State:
    """Where a scan stands between two blocks: depth of brackets, whether inside a string, backslashes just before."""

    depth: int = 0
    quoted: bool = False
    backslashes: int = 0


def _structure(piece: bytes) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
    """Yield, block by block, positions, classes and depth after each bracket or comma that stands outside of strings.

    Blocks bound the memory, whatever the bytes are. Raises ValueError where brackets nest deeper than in any trace.
    """
    data, state = np.frombuffer(piece, np.uint8), _State()
    for low in range(0, len(data), _BLOCK_BYTES):
        block = data[low : low + _BLOCK_BYTES]
        codes = _CLASS[block]
        where = np.flatnonzero(codes)
        kinds = codes[where]
        kinds[_escaped(block, where, kinds, state)] = 0
        inside = np.cumsum(kinds == 2) % 2 == (0 if state.quoted else 1)
        state.quoted ^= bool(np.count_nonzero(kinds == 2) % 2)
        keep = ~inside & (kinds != 2) & (kinds != 0)
        where, kinds = where[keep], kinds[keep]
        depth = state.depth + np.cumsum(np.where(kinds == 3, 0, kinds), dtype=np.int64)
        if len(depth):
            state.depth = int(depth[-1])
            if depth.max() > _DEEPEST:
                raise ValueError(f"brackets nest deeper than {_DEEPEST}")
        yield where + low, kinds, depth


def _escaped(block: Numbers, where: Numbers, kinds: Numbers, state: _State) -> Numbers:
    """Return the indices in `where` of quotes that follow an odd number of backslashes."""
    is_plain = block != 0x5C
    if is_plain.all() and not state.backslashes:
        return where[:0]
    start = -1 - state.backslashes
    plain = np.maximum.accumulate(
        np.where(is_plain, np.arange(len(block)), start)
    )  # The last byte that is no backslash.
    state.backslashes = len(block) - 1 - int(plain[-1])
    quotes = np.flatnonzero(kinds == 2)
    at = where[quotes]
    before = np.where(at > 0, plain[at - 1], start)
    escaped: Numbers = quotes[(at - before - 1) % 2 == 1]
    return escaped


def _boundaries(piece: bytes) -> tuple[int, int]:
    """Return the position of the last comma between two events, and of the bracket that ends the array; -1 if none."""
    comma = -1
    for where, kinds, depth in _structure(piece):
        ends = np.flatnonzero(depth < 0)
        if len(ends):
            return -1, int(where[ends[0]])
        commas = where[(kinds == 3) & (depth == 0)]
        comma = int(commas[-1]) if len(commas) else comma
    return comma, -1


def _split(piece: bytes) -> list[bytes]:
    cuts: list[int] = []
    for where, kinds, depth in _structure(piece):
        cuts += where[(kinds == 3) & (depth == 0)].tolist()
    return [piece[low:high] for low, high in zip([0, *(c + 1 for c in cuts)], [*cuts, len(piece)], strict=True)]
