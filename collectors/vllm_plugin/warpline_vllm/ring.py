"""The ring file that holds what each step computed: records of any length, read by `collectors/engine_step.py`.

Bytes 0-4095 are the header; behind it lies a ring of `size` bytes. A record is a multiple of 16 bytes: its length, its kind
and its number, 16 bytes together, then its payload; it never lies across the ring's end, where a record of kind 0 fills up.
`position` counts all bytes ever written and is stored after them. A POSIX lock on byte 0 tells a reader which process
writes, and that it lives.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from pathlib import Path

MAGIC = b"WLSTEP01"
VERSION = 1
HEADER_BYTES = 4096
DEFAULT_BYTES = 8 << 20
PADDING, SCHEDULED, UPDATED, EXECUTED, FINISHED, TRANSFER = range(6)

HEADER = struct.Struct("<8sIIQIIQ40sq")
"""magic, version, header bytes, ring bytes, pid, flags (1: simulated), start in clock ticks, boot id, opened (ns)."""
POSITION_AT, ENGINE_AT, REASON_AT, REASON_BYTES = 128, 136, 512, 256
RECORD = struct.Struct("<IIQ")


class StepRing:
    """One process's ring. `write` may be called from any thread."""

    def __init__(self, directory: Path, size: int = DEFAULT_BYTES, simulated: bool = False) -> None:
        """Make the file, with its space reserved; raise OSError where that cannot be done."""
        directory.mkdir(parents=True, exist_ok=True)
        ticks = _start_ticks()
        self.pid = os.getpid()
        self.path = directory / f"steps-{self.pid}-{ticks}-{time.monotonic_ns():x}.ring"
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        os.fchmod(self._file, 0o660)  # The collector may be in the directory's group, and nothing else to this user.
        os.posix_fallocate(self._file, 0, HEADER_BYTES + size)
        self._map = mmap.mmap(self._file, HEADER_BYTES + size)
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        self._size, self._at, self._number = size, 0, 0
        self._lock = threading.Lock()
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
        opened = time.monotonic_ns()
        head = (VERSION, HEADER_BYTES, size, self.pid, int(simulated), ticks, boot, opened)
        HEADER.pack_into(self._map, 0, b"", *head)
        self._map[0:8] = MAGIC  # Last: without it the file is no ring yet.

    def write(self, kind: int, *parts: bytes) -> None:
        """Append one record whose payload is the parts, one after the other; drop what is longer than half the ring."""
        payload = b"".join(parts)
        length = (RECORD.size + len(payload) + 15) & ~15
        with self._lock:
            self._number += 1  # A record that is dropped leaves a gap in the numbers: it is counted by the reader.
            if length > self._size // 2 or self.pid != os.getpid():
                return
            offset = self._at % self._size
            if offset + length > self._size:
                fill = self._size - offset
                RECORD.pack_into(self._map, HEADER_BYTES + offset, fill, PADDING, 0)
                self._at += fill
                offset = 0
            start = HEADER_BYTES + offset
            self._map[start + RECORD.size : start + RECORD.size + len(payload)] = payload
            RECORD.pack_into(self._map, start, length, kind, self._number)
            self._at += length
            struct.pack_into("<Q", self._map, POSITION_AT, self._at)

    def set_engine(self, index: int) -> None:
        """Say which data-parallel engine writes."""
        struct.pack_into("<q", self._map, ENGINE_AT, index)

    def refuse(self, reason: str) -> None:
        """Say why nothing more will come."""
        text = f"not collecting, because {reason}".encode()[: REASON_BYTES - 1]
        self._map[REASON_AT : REASON_AT + len(text)] = text

    def close(self) -> None:
        """Let go of the file, which stays until it is read."""
        self._map.close()
        os.close(self._file)


def _start_ticks() -> int:
    """Return the process's start in clock ticks since boot: field 22 of /proc/self/stat, whose second may hold anything."""
    return int(Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()[19])


def directory() -> Path:
    """Return the directory that the collector reads."""
    return Path(os.environ.get("WARPLINE_RING_DIR") or "/run/warpline/rings")
