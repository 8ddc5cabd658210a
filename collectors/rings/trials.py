"""What each level of an injected library costs, from steps that ran at levels drawn by lot.

A step's time varies with its batch far more than with the level, so medians are compared, and each cost has an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

RUNGS = ("none", "callbacks", "graph", "eager", "node")
"""What a trial compares: the levels, and the level graph with eager records."""
_LEAST, _MOST = 16, 1024
_MEDIAN_ERROR = 1.2533 * 1.4826
"""Standard error of a median of n values, in median absolute deviations divided by the root of n, near enough normal."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cost:
    """Share of a step's time that a rung adds to what it lasts without the library, and its standard error."""

    ratio: float
    error: float

    @property
    def least(self) -> float:
        """What it costs for certain: two standard errors below."""
        return max(0.0, self.ratio - 2 * self.error)

    @property
    def most(self) -> float:
        """What it may cost: two standard errors above."""
        return self.ratio + 2 * self.error


@dataclass
class Trials:
    """The latest steps at each rung: what each lasted, and what its callbacks took, in ns."""

    _held: list[Floats] = field(default_factory=lambda: [np.empty(0)] * len(RUNGS))
    _callbacks: list[Floats] = field(default_factory=lambda: [np.empty(0)] * len(RUNGS))

    def add(
        self, rungs: npt.NDArray[np.uint8], lasted_ns: npt.NDArray[np.int64], callback_ns: npt.NDArray[np.int64]
    ) -> None:
        """Take steps of a trial."""
        for rung in range(len(RUNGS)):
            mine = rungs == rung
            self._held[rung] = np.concatenate([self._held[rung], lasted_ns[mine]])[-_MOST:]
            self._callbacks[rung] = np.concatenate([self._callbacks[rung], callback_ns[mine]])[-_MOST:]

    def callback_ratio(self, rung: int) -> float:
        """Return the share of its steps' time that a rung's callbacks took, by their own clock; 0 where none ran."""
        return float(self._callbacks[rung].sum() / max(self._held[rung].sum(), 1.0))

    def cost(self, rung: int) -> Cost | None:
        """Return what a rung costs; None while too few steps ran at it, or without the library."""
        without, held = self._held[0], self._held[rung]
        if min(len(without), len(held)) < _LEAST or not np.median(without):
            return None
        base, mine = (_median(each) for each in (without, held))
        return Cost(mine[0] / base[0] - 1, float(np.hypot(mine[1], base[1] * mine[0] / base[0]) / base[0]))


def _median(values: Floats) -> tuple[float, float]:
    """Return a median and its standard error."""
    middle = float(np.median(values))
    spread = float(np.median(np.abs(values - middle)))
    return middle, _MEDIAN_ERROR * spread / len(values) ** 0.5
