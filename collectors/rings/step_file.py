"""One step ring, as `warpline_vllm.ring` writes it: records of any length, read in order.

This is the reader's own word on the format: the writer is a distribution of its own, which the collector does not need.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from collectors.rings.ring_file import NotARing

MAGIC = b"WLSTEP01"
VERSION = 1
PADDING, SCHEDULED, UPDATED, EXECUTED, FINISHED, TRANSFER = range(6)
_HEADER = struct.Struct("<8sIIQIIQ40sq")
_RECORD = struct.Struct("<IIQ")
_POSITION_AT, _ENGINE_AT, _REASON_AT, _REASON_BYTES = 128, 136, 512, 256
_FLOCK = struct.Struct("hhqqi4x")


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One record."""

    kind: int
    payload: bytes


class StepFile:
    """A step ring being read."""

    def __init__(self, path: Path) -> None:
        """Map the file; raise NotARing, or OSError, where that cannot be done."""
        self.path = path
        self._file = path.open("r+b")
        try:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            magic, version, self._base, self._size, pid, flags, start_ticks, boot, self.opened_ns = _HEADER.unpack_from(
                self._map
            )
            if magic != MAGIC or version != VERSION or self._base + self._size > len(self._map) or self._size < 64:
                raise ValueError(f"magic {magic!r}, version {version}, {self._size} bytes in {len(self._map)}")
        except (ValueError, struct.error) as error:
            self._file.close()
            raise NotARing(f"{path}: {error}") from None
        self.simulated = bool(flags & 1)
        self.writer = pid, start_ticks
        """What the writer says of itself: its process id, and its start in ticks since boot."""
        self.at_least = 1
        """Records that it was given, at the least."""
        self.boot_id = boot.split(b"\0", 1)[0].decode("ascii", "replace")
        self._next, self._number = 0, 0

    @property
    def position(self) -> int:
        """Bytes ever written."""
        return int(struct.unpack_from("<Q", self._map, _POSITION_AT)[0])

    @property
    def engine_index(self) -> int:
        """Data-parallel rank of the engine."""
        return int(struct.unpack_from("<q", self._map, _ENGINE_AT)[0])

    @property
    def reason(self) -> str:
        """Why nothing more comes; empty where it does."""
        raw = self._map[_REASON_AT : _REASON_AT + _REASON_BYTES]
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")

    def owner(self) -> int | None:
        """Return the writer's process id in our PID namespace, 0 where it is not visible in it, None once it has ended."""
        kind, _, _, _, pid = _FLOCK.unpack(
            fcntl.fcntl(self._file, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 1, 0))
        )
        return None if kind == fcntl.F_UNLCK else max(pid, 0)

    def take(self) -> tuple[list[StepRecord], int]:
        """Return the records that were not taken before, and how many were missed between them."""
        position = self.position
        if position - self._next > self._size:
            self._next = position  # The only boundary that is known; the numbers tell how many are gone.
            return [], 0
        data = self._bytes(self._next, position)
        if self.position - self._next > self._size:
            self._next = position
            return [], 0
        self._next = position
        found, lost = [], 0
        for number, record in _records(data):
            lost += number - self._number - 1
            self._number = number
            found.append(record)
        return found, lost

    def _bytes(self, start: int, end: int) -> bytes:
        first, last = self._base + start % self._size, self._base + end % self._size
        if start == end:
            return b""
        if first < last:
            return self._map[first:last]
        return self._map[first : self._base + self._size] + self._map[self._base : last]

    def close(self, remove: bool = False) -> None:
        """Let go of the file; `remove` it where its process has ended."""
        self._map.close()
        self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)


def _records(data: bytes) -> Iterator[tuple[int, StepRecord]]:
    at = 0
    while at + _RECORD.size <= len(data):
        length, kind, number = _RECORD.unpack_from(data, at)
        if length < _RECORD.size or length > len(data) - at:
            return
        if kind != PADDING:
            yield number, StepRecord(kind, data[at + _RECORD.size : at + length])
        at += length
