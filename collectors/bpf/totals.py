"""Sums made in the Linux kernel, taken once a second and each event in exactly one of them (see totals.bpf.h)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy.typing as npt

from collectors.bpf.loader import Loaded
from collectors.bpf.maps import Array

_EVERY_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Sums:
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
        """Return whether a second has passed since the last `take`."""
        return time.monotonic_ns() >= self._since_ns + _EVERY_NS

    def take(self) -> Sums | None:
        """Return what the bank held that was left at the last call, and leave the other one; None at first.

        Programs that were on their way when a bank was left are long done by the next call.
        """
        sums = None
        if self._closed is not None:
            keys, values = self._banks[1 - self._now].items(delete=True)
            sums = Sums(keys, values, *self._closed)
        now_ns = time.monotonic_ns()
        self._closed, self._since_ns = (self._since_ns, now_ns), now_ns
        self._now = 1 - self._now
        self._bank.set(0, self._now)
        return sums
