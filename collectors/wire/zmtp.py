"""ZeroMQ's wire protocol, ZMTP 3, read from one direction of a connection: whole messages out of pieces of a byte stream.

A connection begins with a greeting of 64 bytes; then come frames: a byte of flags (1 more follow, 2 long, 4 command), a
length of one byte, or of eight where long, and the body. Format: rfc.zeromq.org/spec/23 (ZMTP 3.0) and /37 (3.1). A reader
that joins late, or behind a gap, waits for bytes that begin a message, or for a run of short ones. Encrypted connections
(CURVE) hold nothing readable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

GREETING_BYTES = 64
_MORE, _LONG, _COMMAND = 1, 2, 4
_MOST_BYTES = 64 << 20
"""A longer message than this is none of an engine's: the stream is not what it seems."""
_RUN = 4
"""Short messages in a row, each where the last one ends, that no chance makes: a late start may rest on them."""
_LENGTH = rb"[\2\3]\0\0\0\0[\0-\3]..."
FROM_ENGINE = re.compile(_LENGTH + rb"[\x90-\x9f]", re.DOTALL)
TO_ENGINE = re.compile(rb"\x01\x01[\0-\7](?:[\0\1].|" + _LENGTH + rb")[\x90-\x9f\xdc]", re.DOTALL)
"""What begins a message from an engine (an array) and to it (its type in one byte, then an array), wherever it stands."""


@dataclass(slots=True)
class Message:
    """One message: its frames, and the time of the piece that ended it, as `Reader.add` was told."""

    frames: list[bytes]
    time_ns: int
    after_gap: bool
    """True for the first message after bytes that were not read: what lay between may have been messages."""


@dataclass(slots=True)
class Reader:
    """One direction of one connection."""

    begin: re.Pattern[bytes]
    """What begins a message, for a late start."""
    socket_type: str = ""
    """What the peer that sends says of its socket (PUSH, DEALER, …); empty where the greeting was not seen."""
    broken: bool = False
    """True once the bytes were not ZMTP's; what follows is looked through for the next message."""
    skipped_bytes: int = 0
    """Bytes given up so far: before the first message of a late start, and around gaps."""
    _buffer: bytearray = field(default_factory=bytearray)
    _frames: list[bytes] = field(default_factory=list)
    _synchronised: bool = False
    _started: bool = False
    _gap: bool = False

    def gap(self) -> None:
        """Say that bytes are missing before those that come next."""
        self.skipped_bytes += len(self._buffer)
        self._buffer.clear()
        self._frames.clear()
        self._synchronised, self._started, self._gap = False, True, True

    def add(self, data: bytes, time_ns: int, starts_call: bool = False) -> list[Message]:
        """Return the messages that `data` completes; a system call's first piece (`starts_call`) likely begins one."""
        if starts_call and self._started and not self._synchronised and self._begins(data):
            self._drop(len(self._buffer))
            self._synchronised = True
        self._buffer += data
        if not self._started:
            if len(self._buffer) < GREETING_BYTES and self._buffer[:1] == b"\xff":
                return []
            self._started = True
            if self._buffer[:1] == b"\xff" and self._buffer[9] == 0x7F:
                del self._buffer[:GREETING_BYTES]
                self._synchronised = True
            else:
                self._gap, self._synchronised = True, starts_call and self._begins(self._buffer)
        found: list[Message] = []
        while self._synchronised or self._synchronise():
            if not self._frame(found, time_ns):
                break
        return found

    def _frame(self, found: list[Message], time_ns: int) -> bool:
        """Take one frame off the buffer; return False where it is not whole yet."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        flags = buffer[0]
        head = 9 if flags & _LONG else 2
        if len(buffer) < head:
            return False
        length = int.from_bytes(buffer[1:9], "big") if flags & _LONG else buffer[1]
        if flags & ~7 or length > _MOST_BYTES:
            self._lose()
            return bool(self._buffer)
        if len(buffer) < head + length:
            return False
        body = bytes(buffer[head : head + length])
        del buffer[: head + length]
        if flags & _COMMAND:
            self._command(body)
            return True
        self._frames.append(body)
        if not flags & _MORE:
            found.append(Message(self._frames, time_ns, self._gap))
            self._frames, self._gap = [], False
        return True

    def _lose(self) -> None:
        self.broken = self._gap = True
        self._synchronised = False
        self._frames.clear()
        self.skipped_bytes += 1
        del self._buffer[:1]

    def _command(self, body: bytes) -> None:
        """READY carries properties, each its name's length and name, its value's length in four bytes and value."""
        at = body.find(b"\x0bSocket-Type")
        if body[:6] == b"\x05READY" and at >= 0:
            length = int.from_bytes(body[at + 12 : at + 16], "big")
            self.socket_type = body[at + 16 : at + 16 + length].decode("ascii", "replace")

    def _begins(self, data: bytes | bytearray) -> bool:
        """Whether `data` looks like the beginning of a message, short ones among them."""
        if not self.begin.match(data) and not (len(data) > 2 and data[0] < 2 and data[2] & 0xF0 == 0x90):
            return False
        end = _end_of_message(data, 0)
        return end < 0 or end == len(data) or (end < len(data) and not data[end] & ~7)

    def _synchronise(self) -> bool:
        """Drop bytes up to the next that begin a message; its end must be followed by another frame, or by nothing yet."""
        at = 0
        while match := self.begin.search(self._buffer, at):
            at = match.start()
            end = _end_of_message(self._buffer, at)
            if end == len(self._buffer) or (0 <= end < len(self._buffer) and not self._buffer[end] & ~7):
                self._drop(at)
                self._synchronised = True
                return True
            if end < 0:  # Not whole yet: what comes decides.
                self._drop(at)
                return False
            at += 1
        at = _run_of_short(self._buffer) if self.begin is FROM_ENGINE else -1
        if at >= 0:
            self._drop(at)
            self._synchronised = True
            return True
        self._drop(max(len(self._buffer) - 21, 0))  # A beginning may be cut at its end.
        return False

    def _drop(self, count: int) -> None:
        self.skipped_bytes += count
        del self._buffer[:count]


def _end_of_message(buffer: bytes | bytearray, at: int) -> int:
    """Return where the message at `at` ends, -1 where the buffer ends before it, or a place beyond where it is none."""
    while True:
        if len(buffer) < at + 9:
            return -1
        flags = buffer[at]
        if flags & ~3:
            return len(buffer) + 1
        head = 9 if flags & _LONG else 2
        at += head + (int.from_bytes(buffer[at + 1 : at + 9], "big") if flags & _LONG else buffer[at + 1])
        if at > len(buffer):
            return -1
        if not flags & _MORE:
            return at


def _run_of_short(buffer: bytearray) -> int:
    """Return where a run of short messages from an engine begins (one frame of up to 255 bytes, an array), or -1."""
    data = np.frombuffer(bytes(buffer), np.uint8)
    if len(data) < 3:
        return -1
    begins = np.zeros(len(data) + 257, bool)  # What lies beyond the end begins none.
    begins[: len(data) - 2] = (data[:-2] == 0) & (data[2:] & 0xF0 == 0x90)
    first = np.flatnonzero(begins)
    at = first
    for _ in range(_RUN - 1):
        at = at + 2 + data[at + 1]
        first, at = first[begins[at]], at[begins[at]]
    return int(first[0]) if len(first) else -1
