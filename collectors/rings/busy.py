"""How long a GPU worked, second by second: the union and the sum of the executions, clipped to each second."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

INTERVAL_NS = 1_000_000_000
LAG_NS = 2_000_000_000
"""How long an interval waits for its executions: CUPTI hands its records over within a fraction of a second."""

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """One interval of one device."""

    start_ns: int
    device: int
    busy_ns: int
    kernel_ns: int
    executions: int


@dataclass
class Course:
    """At which level a library ran, and what it cost, over the last while: an interval is told later than it was."""

    _notes: deque[tuple[int, int, float]] = field(default_factory=lambda: deque(maxlen=64))

    def note(self, now_ns: int, level: int, cost_ratio: float) -> None:
        """Keep the level and the cost of the time from the last note to this one."""
        self._notes.append((now_ns, level, cost_ratio))

    def over(self, start_ns: int, end_ns: int) -> tuple[int, float] | None:
        """Return the highest level in an interval, and its mean cost; the last ones known where no note lies so late, None
        before the first."""
        before, times, levels, costs = 0, [], [], []
        for at_ns, level, cost_ratio in self._notes:
            inside = min(at_ns, end_ns) - max(before, start_ns)
            if inside > 0:
                times.append(inside)
                levels.append(level)
                costs.append(cost_ratio)
            before = at_ns
        if not times:
            return self._notes[-1][1:] if self._notes else None
        return max(levels), float(np.average(costs, weights=times))


def union(starts: Times, ends: Times) -> tuple[Times, Times]:
    """Return the disjoint intervals that the given ones cover, in order."""
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return starts[first], reach[last]


class Busy:
    """Executions of one process that wait for their intervals to be complete. Times are of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._held: list[tuple[Times, Times, npt.NDArray[np.uint8]]] = []
        self._closed_ns = 0

    def add(self, starts: Times, ends: Times, devices: npt.NDArray[np.uint8]) -> int:
        """Hold executions; return how many began too late for an interval that is closed already."""
        late = starts < self._closed_ns
        self._held.append((starts[~late], ends[~late], devices[~late]))
        return int(late.sum())

    def close(self, now_ns: int, all_of_it: bool = False) -> list[Interval]:
        """Return the intervals that are complete at `now_ns`, or all."""
        starts, ends, devices = (
            (np.concatenate(each) for each in zip(*self._held, strict=True)) if self._held else _NONE
        )
        if not len(starts):
            self._held = []
            return []
        until = int(ends.max()) + INTERVAL_NS if all_of_it else now_ns - LAG_NS
        until = until // INTERVAL_NS * INTERVAL_NS
        first = max(int(starts.min()) // INTERVAL_NS * INTERVAL_NS, self._closed_ns)
        found = [
            interval
            for device in np.unique(devices)
            for at in range(first, until, INTERVAL_NS)
            if (interval := _interval(at, int(device), starts[devices == device], ends[devices == device]))
        ]
        self._closed_ns = max(until, self._closed_ns)
        open_still = ends > until
        self._held = [(starts[open_still], ends[open_still], devices[open_still])]
        return found


_NONE = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))


def _interval(at: int, device: int, starts: Times, ends: Times) -> Interval | None:
    inside = (starts < at + INTERVAL_NS) & (ends > at)
    if not inside.any():
        return None
    begins = np.maximum(starts[inside], at)
    stops = np.minimum(ends[inside], at + INTERVAL_NS)
    low, high = union(begins, stops)
    began = int((starts[inside] >= at).sum())
    return Interval(at, device, int((high - low).sum()), int((stops - begins).sum()), began)
