"""Sums made in the Linux kernel, taken once a second and each event in exactly one of them (see totals.bpf.h)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from collectors.bpf.loader import Loaded
from collectors.bpf.maps import Array
from collectors.identity.batches import process_uids
from warpline.batch import Batch
from warpline.schema import Table
from warpline.source import Context

_EVERY_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Sums:
    """What one bank held: keys, values by key and CPU, and when the bank was written (CLOCK_MONOTONIC)."""

    keys: Array
    values: Array
    start_ns: int
    end_ns: int


class Totals:
    """The banks `<name>0` and `<name>1`, per-CPU hashes of a loaded program."""

    def __init__(self, loaded: Loaded, name: str, key: npt.DTypeLike, value: npt.DTypeLike) -> None:
        """Begin with bank 0."""
        self._banks = [loaded.map(f"{name}{number}", key, value) for number in (0, 1)]
        self._bank = loaded.map("bank", "<u4", "<u4")
        self._now = 0
        self._since_ns = time.monotonic_ns()
        self._closed: tuple[int, int] | None = None

    def are_due(self) -> bool:
        """Return whether a second has passed since the last `batches`."""
        return time.monotonic_ns() >= self._since_ns + _EVERY_NS

    def _take(self) -> _Sums | None:
        """Return what the bank held that was left at the last call, and leave the other one; None at first.

        Programs that were on their way when a bank was left are long done by the next call.
        """
        sums = None
        if self._closed is not None:
            keys, values = self._banks[1 - self._now].items(delete=True)
            sums = _Sums(keys, values, *self._closed)
        now_ns = time.monotonic_ns()
        self._closed, self._since_ns = (self._since_ns, now_ns), now_ns
        self._now = 1 - self._now
        self._bank.set(0, self._now)
        return sums

    def batches(
        self, table: Table, context: Context, columns: Callable[[Array, Array], Mapping[str, Any]]
    ) -> list[Batch]:
        """Return the sums of the second before the last, a row for each process and what else the keys tell apart.

        `columns` gives those beside time, node and process, of keys and of values by CPU.
        """
        sums = self._take()
        if sums is None or not len(sums.keys):
            return []
        start_ns, end_ns = (context.clock.from_monotonic(each) for each in (sums.start_ns, sums.end_ns))
        rows = {
            "start_ns": np.full(len(sums.keys), start_ns),
            "end_ns": end_ns,
            "node": context.node,
            "process_uid": process_uids(context.node, sums.keys["process_start_ns"], sums.keys["process"]),
            **columns(sums.keys, sums.values),
        }
        return [Batch(table, table.batch(rows))]
