"""The one reader of BPF ring buffers: whole blocks by numpy, straight from the ring's memory, no Python call per event.

A ring's first page is the consumer's position; then come a page with the producer's and the data. A record is its length
with two flag bits (busy, discarded), 4 more bytes, and the payload, rounded up to 8 (kernel/bpf/ringbuf.c). Every record of
one ring has the same size, so a block of records is one array. Measured at 110 M events/s and core for 48-byte records
(`bench/ebpf.py` prints today's figure).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from collectors.bpf.maps import Map
from warpline.errors import SourceError

Records = npt.NDArray[Any]

_BUSY, _DISCARDED, _LENGTH = 1 << 31, 1 << 30, (1 << 30) - 1
_HEADER = "_header"


class Ring:
    """A ring of equal records of dtype `record`, read in order, each exactly once."""

    def __init__(self, descriptor: int, size: int, record: npt.DTypeLike, take_bytes: int = 4 << 20) -> None:
        """Map the ring behind `descriptor`, `size` bytes of data; one `take` copies at most `take_bytes`."""
        wanted = np.dtype(record)
        self.payload_bytes = wanted.itemsize
        room = (-wanted.itemsize) % 8
        fields: list[Any] = [(_HEADER, "<u8"), *wanted.descr]
        self.record = np.dtype([*fields, ("_room", "u1", (room,))] if room else fields)
        if self.record.itemsize != 8 + wanted.itemsize + room:
            raise SourceError(
                f"ring: its record has gaps, {wanted.itemsize} bytes are declared; name every padding byte"
            )
        self.size, self._mask, self._stride = size, size - 1, self.record.itemsize
        self._most = max(take_bytes // self._stride, 1)
        self._none = np.empty(0, self.record)
        page = mmap.PAGESIZE
        own = mmap.mmap(descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        # The data lies in memory twice in a row, for the programs' sake; what we map of it counts as memory of ours.
        data = mmap.mmap(descriptor, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # The arrays keep the two mappings alive; positions only grow, and wrap nowhere within the life of a node.
        self._consumer = np.frombuffer(own, np.uint64, 1)
        self._producer = np.frombuffer(data, np.uint64, 1)
        self._data = np.frombuffer(data, np.uint8, size, offset=page)
        self.seen = 0

    def fill_ratio(self) -> float:
        """Return the share of the ring that waits to be read."""
        return (int(self._producer[0]) - int(self._consumer[0])) / self.size

    def take(self) -> Records:
        """Return the next complete records, a copy in the order made; empty where there are none.

        It stops at the first record that its producer still writes: the rest comes with the next call. Raises SourceError
        where a record's length is not the declared one (program and reader differ).
        """
        at = int(self._consumer[0])
        count = min((int(self._producer[0]) - at) // self._stride, self._most)
        if not count:
            return self._none
        block = self._copied(at & self._mask, count)
        headers = block[_HEADER]
        busy = (headers & np.uint64(_BUSY)) != 0
        if busy.any():
            block = block[: int(busy.argmax())]
            headers = block[_HEADER]
        if not len(block):
            return block
        if ((headers & np.uint64(_LENGTH)) != self.payload_bytes).any():
            raise SourceError(f"ring: a record is not {self.payload_bytes} bytes long; program and reader differ")
        # The copy is done, so the producer may have the room back. A plain store is enough on x86-64 (stores stay in order).
        self._consumer[0] = at + len(block) * self._stride
        discarded = (headers & np.uint64(_DISCARDED)) != 0
        if discarded.any():
            block = block[~discarded]
        self.seen += len(block)
        return block

    def _copied(self, offset: int, count: int) -> Records:
        """Return `count` records from `offset` on; one that the ring's end cuts is put together again."""
        length = count * self._stride
        behind_end = max(offset + length - self.size, 0)
        parts = [self._data[offset : offset + length - behind_end], self._data[:behind_end]]
        return np.concatenate(parts).view(self.record)


COUNTER = np.dtype([("made", "<u8"), ("lost", "<u8"), ("lost_ns", "<u8")])
"""struct counter of prelude.bpf.h: events made, events lost, when the last was lost (CLOCK_MONOTONIC)."""

LEFT_OUT = "programs that did not run: already running on that cpu"
"""The loss of a run that the kernel left out (recursion)."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Events that the Linux kernel had and we did not get: how many, why, and between which CLOCK_MONOTONIC times."""

    reason: str
    count: int
    start_ns: int
    end_ns: int


class Tally:
    """What the programs count: for each reason, events made and events lost. made = seen + lost holds exactly."""

    def __init__(
        self, counters: Map, reasons: Sequence[str], now_ns: int, misses: Callable[[], int] | None = None
    ) -> None:
        """Read map `counters`, whose element i counts what `reasons[i]` says, and `misses`, how often a program did not run;
        losses before `now_ns` are none of ours."""
        self._counters, self.reasons = counters, tuple(reasons)
        self._misses = misses or (lambda: 0)
        self._last_ns = now_ns
        self._lost, self._missed = self._read()["lost"], self._misses()

    def made(self, reason: str) -> int:
        """Return how many events of the kind whose losses `reason` names were made so far, lost ones included."""
        return int(self._read()["made"][self.reasons.index(reason)])

    def losses(self, now_ns: int) -> list[Loss]:
        """Return what was lost since the last call, none twice; each began after that call and ended by its last event."""
        counts = self._read()
        new = counts["lost"] - self._lost
        found = [
            Loss(self.reasons[i], int(new[i]), self._last_ns, max(int(counts["lost_ns"][i]), self._last_ns))
            for i in np.flatnonzero(new).tolist()
        ]
        missed = self._misses()
        if missed != self._missed:
            found.append(Loss(LEFT_OUT, missed - self._missed, self._last_ns, now_ns))
        self._last_ns, self._lost, self._missed = now_ns, counts["lost"], missed
        return found

    def _read(self) -> Records:
        count = len(self.reasons)
        keys, by_cpu = self._counters.items()
        total = np.zeros(count, COUNTER)
        order = np.argsort(keys)[:count]
        for name in ("made", "lost"):
            total[name] = by_cpu[name][order].sum(axis=1)
        total["lost_ns"] = by_cpu["lost_ns"][order].max(axis=1)
        return total
