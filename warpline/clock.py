"""Node time: Linux's clocks on one axis, each with its error bound.

Node time is CLOCK_MONOTONIC plus one anchor per boot, so it reads as Unix time and never steps, whatever NTP does to
CLOCK_REALTIME. The anchor is measured once, by the first Warpline process of a boot, and kept in a file named for the boot
id, so that every collector and every restart on that node uses the same one.
"""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Times = TypeVar("Times", int, npt.NDArray[np.int64])

_CLOCK_TAI = 11
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised.


@dataclass(frozen=True, slots=True)
class ClockPair:
    """One reading of all clocks, in ns; the true instant of each lies within half_width_ns of the reading's middle."""

    monotonic_ns: int
    boottime_ns: int
    realtime_ns: int
    tai_ns: int
    half_width_ns: int


def read_pair(tries: int = 7) -> ClockPair:
    """Return the narrowest of `tries` sandwich readings (monotonic, the others, monotonic)."""
    return min((_read_once() for _ in range(tries)), key=lambda pair: pair.half_width_ns)


def _read_once() -> ClockPair:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    real = time.clock_gettime_ns(time.CLOCK_REALTIME)
    tai = time.clock_gettime_ns(_CLOCK_TAI)
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return ClockPair((before + after) // 2, boot, real, tai, (after - before + 1) // 2)


def boot_id() -> str:
    """Return Linux's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as maxerror and status; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_byte * 256),
    )


def realtime_error() -> tuple[int | None, str]:
    """Return the kernel's bound on CLOCK_REALTIME's error in ns, and whether it is synchronised (adjtimex(2))."""
    timex = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0 or state == _TIME_ERROR:
        return None, "unsynchronised"
    return timex.maxerror * 1000, "synchronised"


class NodeClock:
    """Converts this node's clocks to node time. `error_ns` bounds what the conversion itself may be off."""

    def __init__(self, state_dir: Path) -> None:
        """Take the boot's anchor from `state_dir`, or measure it and keep it there."""
        self.boot_id = boot_id()
        self.anchor_ns = _anchor(state_dir / f"clock-anchor-{self.boot_id}")

    def now_ns(self) -> int:
        """Return the node time now."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC) + self.anchor_ns

    def from_monotonic(self, monotonic_ns: Times) -> Times:
        """Return node time of CLOCK_MONOTONIC readings: exact, since the anchor is a constant of the boot."""
        return monotonic_ns + self.anchor_ns

    def from_boottime(self, boottime_ns: Times) -> Times:
        """Return node time of CLOCK_BOOTTIME readings (Tetragon's); off by any suspend between then and now."""
        pair = read_pair()
        return boottime_ns - (pair.boottime_ns - pair.monotonic_ns) + self.anchor_ns

    def from_realtime(self, realtime_ns: Times) -> Times:
        """Return node time of CLOCK_REALTIME readings, by today's distance of the two clocks.

        Off by whatever CLOCK_REALTIME was stepped or slewed between then and now: `clock_pair` rows tell how much.
        """
        pair = read_pair()
        return realtime_ns - (pair.realtime_ns - pair.monotonic_ns) + self.anchor_ns


def _anchor(file: Path) -> int:
    if file.exists():
        return int(file.read_text(encoding="ascii"))
    pair = read_pair()
    file.parent.mkdir(parents=True, exist_ok=True)
    mine = file.with_suffix(f".{os.getpid()}")
    mine.write_text(str(pair.realtime_ns - pair.monotonic_ns), encoding="ascii")
    try:
        os.link(mine, file)  # Fails where another process was first: then its anchor holds.
    except FileExistsError:
        pass
    finally:
        mine.unlink()
    return int(file.read_text(encoding="ascii"))
