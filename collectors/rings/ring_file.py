"""One ring file of 64-byte records, as `collectors/inject/ring.h` lays it out, and who writes it.

The file is mapped. The writer never waits for a reader, so a reader that comes late finds records overwritten: they are
counted, with the time range in which they lay.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAGIC = b"WLRING01"
VERSION = 1
STARTING, COLLECTING, NOT_COLLECTING, ENDED = range(4)
LEVELS = ("none", "callbacks", "graph", "node")

RECORD = np.dtype(
    {
        "names": [
            *("number", "kind", "flags", "level", "device", "thread", "start", "end", "correlation", "step"),
            *("name", "context", "graph", "value"),
        ],
        "formats": ["<u8", "u1", "u1", "u1", "u1", "<u4", "<i8", "<i8", "<i8", "<i8", "<u2", "<u2", "<u4", "<i8"],
        "offsets": [0, 8, 9, 10, 11, 12, 16, 24, 32, 40, 48, 50, 52, 56],
        "itemsize": 64,
    }
)
_FIELDS = {
    "version": ("<I", 8), "header_bytes": ("<I", 12), "record_bytes": ("<I", 16), "name_bytes": ("<I", 20),
    "records": ("<Q", 24), "pid": ("<I", 32), "state": ("<I", 36), "start_ticks": ("<Q", 40), "opened_ns": ("<q", 88),
    "cupti_version": ("<I", 96), "driver_version": ("<I", 100), "simulated": ("<I", 104), "pinned": ("<I", 108),
    "position": ("<Q", 128), "names": ("<Q", 136),
    "wanted_level": ("<I", 192), "eager_burst": ("<I", 196), "eager_period": ("<I", 200), "node_steps": ("<I", 204),
    "stop": ("<I", 208), "trial_steps": ("<I", 212),
    "level": ("<I", 256), "eager": ("<I", 260), "launches": ("<Q", 264), "executions": ("<Q", 272),
    "lost_by_cupti": ("<Q", 280), "lost_outside_sample": ("<Q", 288), "lost_names": ("<Q", 296),
    "callback_ns": ("<Q", 304), "record_ns": ("<Q", 312),
    "step_ns_plain": ("<Q", 320), "step_ns_eager": ("<Q", 328), "steps_plain": ("<Q", 336), "steps_eager": ("<Q", 344),
}  # fmt: skip
_REASON, _DEVICES, _DEVICE_BYTES, _DEVICE_COUNT = 512, 768, 128, 16
_STUCK_S = 1.0
_FLOCK = struct.Struct("hhqqi4x")


class NotARing(ValueError):
    """The file is no ring of a version that is known here."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or MIG instance that the process uses, by CUDA's number in that process."""

    uuid: str
    name: str
    gpu_instance: int | None
    compute_instance: int | None


@dataclass(frozen=True, slots=True)
class Taken:
    """Finished records in the order of their numbers, and what was missed before them."""

    records: npt.NDArray[np.void]
    overrun: int = 0
    unfinished: int = 0


class Ring:
    """A ring file being read. Fields of its header are attributes, read anew each time."""

    def __init__(self, path: Path) -> None:
        """Map the file; raise NotARing, or OSError, where that cannot be done."""
        self.path = path
        self._file = path.open("r+b")
        try:
            self._map = mmap.mmap(self._file.fileno(), 0)
            self._check()
        except (ValueError, struct.error) as error:
            self._file.close()
            raise NotARing(f"{path}: {error}") from None
        start = self.get("header_bytes") + self.get("name_bytes")
        self._records = np.frombuffer(self._map, RECORD, self.get("records"), start)
        self._numbers = self._records["number"]
        self._next = 0
        self._waited_s: float | None = None
        self._names: list[str] = [""]
        self._names_read = 0

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._map[:8] != MAGIC:
            raise ValueError(f"begins with {self._map[:8]!r}, not {MAGIC!r}")
        size = self.get("header_bytes") + self.get("name_bytes") + self.get("records") * RECORD.itemsize
        if self.get("version") != VERSION or self.get("record_bytes") != RECORD.itemsize:
            raise ValueError(f"is of version {self.get('version')}; this reads {VERSION}")
        if self.get("header_bytes") < 4096 or size > len(self._map) or not self.get("records"):
            raise ValueError(f"says {size} bytes and has {len(self._map)}")

    def get(self, field: str) -> int:
        """Return a field of the header."""
        layout, offset = _FIELDS[field]
        return int(struct.unpack_from(layout, self._map, offset)[0])

    def set(self, field: str, value: int) -> None:
        """Write one of the collector's fields."""
        layout, offset = _FIELDS[field]
        struct.pack_into(layout, self._map, offset, value)

    @property
    def reason(self) -> str:
        """Why the library does not collect, as a sentence; empty where it does."""
        return _text(self._map[_REASON : _REASON + 256]) if self.get("state") == NOT_COLLECTING else ""

    @property
    def boot_id(self) -> str:
        """Linux boot that the ring was written in."""
        return _text(self._map[48:88])

    @property
    def writer(self) -> tuple[int, int]:
        """What the writer says of itself: its process id, and its start in ticks since boot."""
        return self.get("pid"), self.get("start_ticks")

    @property
    def at_least(self) -> int:
        """Records that it was given, at the least."""
        return max(self.get("position"), 1)

    def owner(self) -> int | None:
        """Return the writer's process id in our PID namespace, 0 where it is not visible in it, None once it has ended."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 1, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else max(pid, 0)

    def devices(self) -> dict[int, Device]:
        """Return the devices that the process has used, by CUDA's number of them."""
        found = {}
        for index in range(_DEVICE_COUNT):
            at = _DEVICES + index * _DEVICE_BYTES
            uuid = _text(self._map[at : at + 48])
            if uuid:
                instances = struct.unpack_from("<ii", self._map, at + 112)
                name = _text(self._map[at + 48 : at + 112])
                found[index] = Device(uuid, name, *(each if each >= 0 else None for each in instances))
        return found

    def names(self) -> list[str]:
        """Return all names by their number; number 0 is the empty name."""
        end = min(self.get("names"), self.get("name_bytes"))
        base = self.get("header_bytes")
        while self._names_read + 2 <= end:
            at = base + self._names_read
            (length,) = struct.unpack_from("<H", self._map, at)
            self._names.append(self._map[at + 2 : at + 2 + length].decode("utf-8", "replace"))
            self._names_read += 2 + length
        return self._names

    def take(self, most: int, ended: bool = False) -> Taken:
        """Return up to `most` records that were not taken before.

        A record under way holds up those behind it, until its writer has `ended` or a second has gone by: then it is
        counted as unfinished.
        """
        size, position = len(self._records), self.get("position")
        overrun = max(0, position - size - self._next)
        if overrun:
            overrun += min(size // 8, position - self._next - overrun)  # Room before the writer comes round again.
            self._next += overrun
        wanted = np.arange(self._next, min(position, self._next + most), dtype=np.int64)
        finished = self._numbers[wanted % size] == (wanted + 1).astype(np.uint64)
        count = len(wanted) if finished.all() else self._ready(finished, ended)
        records = self._records[wanted[:count] % size]
        torn = max(0, self.get("position") - size - self._next)
        keep = finished[:count]
        keep[:torn] = False
        self._next += count
        unfinished = int((~finished[:count])[torn:].sum())
        return Taken(records[keep], overrun + min(torn, count), unfinished)

    def _ready(self, finished: npt.NDArray[np.bool_], ended: bool) -> int:
        """Return how many records may be taken where not all are finished."""
        first = int(np.argmin(finished))
        now = time.monotonic()
        if first:
            self._waited_s = None
            return first
        if not ended:
            self._waited_s = self._waited_s or now
            if now - self._waited_s < _STUCK_S:
                return 0
        self._waited_s = None
        return len(finished)

    def close(self, remove: bool = False) -> None:
        """Let go of the file; `remove` it where its process has ended."""
        del self._records, self._numbers
        self._map.close()
        self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
