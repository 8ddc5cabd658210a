"""What an injected library costs its process, and the level that keeps it under a budget.

The library says how long its callbacks took, and how long engine steps lasted with and without eager records; both kinds of
step alternate under the same load, so their difference is CUPTI's own cost. Now and then some steps run at levels drawn by
lot, none among them: what a level adds to a step for certain is its cost too. Levels are switched in place, in the ring's
header. What a person has set by hand (WARPLINE_GPU_LEVEL, WARPLINE_GPU_EAGER_STEPS) is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from collectors.rings.ring_file import Ring
from collectors.rings.trials import RUNGS, Trials

_LEAST_STEPS = 64
_LONGEST_PERIOD = 4096
_CALM_RATIO = 0.25
_TRIAL_STEPS = 80
_TRY_EVERY_NS, _TRY_SELDOM_NS = 20_000_000_000, 600_000_000_000
_TRIALS = 30
"""After so many trials, or as soon as they tell levels apart well enough, they become seldom: their steps are not whole."""
_RUNG_OF_LEVEL = (0, 1, 2, 4)
_COUNTERS = ("callback_ns", "step_ns_plain", "step_ns_eager", "steps_plain", "steps_eager")


@dataclass
class Budget:
    """Follows one ring's cost. `callback_ratio` is the callbacks' share of wall time, `level_ratio` the level's share of a
    step, `eager_ratio` what eager records add to it."""

    budget_ratio: float
    at_ns: int = 0
    callback_ratio: float = 0.0
    level_ratio: float = 0.0
    eager_ratio: float = 0.0
    _seen: dict[str, int] = field(default_factory=dict)
    _steps: dict[str, int] = field(default_factory=dict)
    trials: Trials = field(default_factory=Trials)
    _lowered: bool = False
    _tried: int = 0
    _tried_ns: int = 0

    def measure(self, ring: Ring, now_ns: int) -> float:
        """Return the share of its process's time that the library cost since the last call."""
        now = {name: ring.get(name) for name in _COUNTERS}
        if self.at_ns and now_ns > self.at_ns:
            change = {name: now[name] - self._seen[name] for name in _COUNTERS}
            self.callback_ratio = change["callback_ns"] / (now_ns - self.at_ns)
            self._compare_steps(change, ring)
        self._seen, self.at_ns = now, now_ns
        self.level_ratio = self._level(ring)
        return self.level_ratio + self.eager_ratio

    def _level(self, ring: Ring) -> float:
        """Return what the level costs: the callbacks' own time, or what trials say that it adds to a step for certain."""
        known = self.trials.cost(_RUNG_OF_LEVEL[min(ring.get("wanted_level"), len(_RUNG_OF_LEVEL) - 1)])
        return max(self.callback_ratio, known.least if known else 0.0)

    def compare_levels(self, ring: Ring, now_ns: int) -> None:
        """Ask for a trial of all levels where one is due."""
        due_ns = _TRY_SELDOM_NS if self._settled() else _TRY_EVERY_NS
        if not ring.get("pinned") and (not self._tried or now_ns - self._tried_ns >= due_ns):
            self._tried, self._tried_ns = self._tried + 1, now_ns
            ring.set("trial_steps", _TRIAL_STEPS)

    def _settled(self) -> bool:
        costs = [self.trials.cost(rung) for rung in range(1, len(RUNGS))]
        return self._tried >= _TRIALS or all(each is not None and each.error < self.budget_ratio / 2 for each in costs)

    def _compare_steps(self, change: dict[str, int], ring: Ring) -> None:
        """Compare steps with and without eager records, once there are enough of both."""
        for name in _COUNTERS[1:]:
            self._steps[name] = self._steps.get(name, 0) + change[name]
        plain, eager = self._steps["steps_plain"], self._steps["steps_eager"]
        if min(plain, eager) < _LEAST_STEPS:
            return
        without, with_records = self._steps["step_ns_plain"] / plain, self._steps["step_ns_eager"] / eager
        burst, period = ring.get("eager_burst"), max(ring.get("eager_period"), 1)
        self.eager_ratio = max(0.0, with_records / without - 1) * min(1.0, burst / period)
        self._steps = {}

    def steer(self, ring: Ring) -> str | None:
        """Change the ring's level where its cost asks for it; return what was done, or None."""
        if ring.get("pinned"):
            return None
        level, period, burst = ring.get("wanted_level"), ring.get("eager_period"), max(ring.get("eager_burst"), 1)
        cost = self.level_ratio + self.eager_ratio
        if cost > self.budget_ratio:
            return self._lower(ring, level, period)
        if cost < _CALM_RATIO * self.budget_ratio:
            return self._raise(ring, level, period, burst)
        return None

    def _lower(self, ring: Ring, level: int, period: int) -> str | None:
        if self.eager_ratio > self.level_ratio and level >= 2 and period < _LONGEST_PERIOD:
            ring.set("eager_period", period * 2)
            self.eager_ratio /= 2
            return f"eager records in one of {period * 2 // max(ring.get('eager_burst'), 1)} steps"
        if level:
            ring.set("wanted_level", level - 1)
            self._lowered = True
            return f"level {level - 1}"
        return None

    def _raise(self, ring: Ring, level: int, period: int, burst: int) -> str | None:
        if self._lowered:
            return self._return(ring, level)
        if level < 2 or period // 2 < 2 * burst or not self._seen.get("steps_eager"):
            return None
        ring.set("eager_period", period // 2)
        return f"eager records in one of {period // 2 // burst} steps"

    def _return(self, ring: Ring, level: int) -> str | None:
        """Go back up one level that was too dear once, where trials say for certain that it no longer is."""
        rung = _RUNG_OF_LEVEL[level + 1]
        known = self.trials.cost(rung)
        if known is None or max(known.most, self.trials.callback_ratio(rung)) > self.budget_ratio:
            return None
        ring.set("wanted_level", level + 1)
        self._lowered = level + 1 < 2
        return f"level {level + 1}"
