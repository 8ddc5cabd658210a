"""Scanning the events of a Chrome trace in bounded memory: `{…, "traceEvents": [event, …], …}`, or a bare `[event, …]`.

The bytes are cut between two events and each piece is parsed by orjson. A cut is tried where a piece *looks* complete;
that it parses as an array proves that the cut lay outside of strings and between events, because inside either it could
not have parsed. Where the guess fails (at the array's end, or in odd files) an exact scan of quotes and brackets finds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from collectors.recordings.files import Part
from warpline.errors import SourceError

PIECE_BYTES = 4 << 20
LARGEST_EVENT_BYTES = 64 << 20
_ARRAY = re.compile(rb'"traceEvents"\s*:\s*\[')
_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_NOT_JSON = re.compile(rb"(?<=[:,\[\s])-?(?:inf|nan|Infinity|NaN)\b")
_GUESS_BYTES = 1 << 16

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

    def _more(self) -> bool:
        piece = self.part.read(self._piece_bytes)
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
            comma, end = _boundaries(self._rest)
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
            self._more()

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


def _structure(piece: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, classes and depth after each bracket or comma that stands outside of strings."""
    codes = _CLASS[np.frombuffer(piece, np.uint8)]
    where = np.flatnonzero(codes)
    kinds = codes[where]
    quotes = where[kinds == 2]
    if b"\\" in piece:
        kinds[np.isin(where, quotes[_escaped(piece, quotes)])] = 0
    inside = np.cumsum(kinds == 2) % 2 == 1
    keep = ~inside & (kinds != 2) & (kinds != 0)
    where, kinds = where[keep], kinds[keep]
    return where, kinds, np.cumsum(np.where(kinds == 3, 0, kinds))


def _escaped(piece: bytes, quotes: np.ndarray) -> np.ndarray:
    """Say which quotes follow an odd number of backslashes."""
    data = np.frombuffer(piece, np.uint8)
    odd = np.zeros(len(quotes), bool)
    alive = np.ones(len(quotes), bool)
    distance = 1
    while alive.any():
        before = quotes - distance
        alive &= (before >= 0) & (data[np.maximum(before, 0)] == 0x5C)
        odd ^= alive
        distance += 1
    return odd


def _boundaries(piece: bytes) -> tuple[int, int]:
    """Return the position of the last comma between two events, and of the bracket that ends the array; -1 if none."""
    where, kinds, depth = _structure(piece)
    ends = np.flatnonzero(depth < 0)
    if len(ends):
        return -1, int(where[ends[0]])
    commas = where[(kinds == 3) & (depth == 0)]
    return (int(commas[-1]) if len(commas) else -1), -1


def _split(piece: bytes) -> list[bytes]:
    where, kinds, depth = _structure(piece)
    cuts = where[(kinds == 3) & (depth == 0)].tolist()
    return [piece[low:high] for low, high in zip([0, *(c + 1 for c in cuts)], [*cuts, len(piece)], strict=True)]
