"""What each stretch of shared GPU time was made of, so that rows that came mark only the stretches that they can change.

A row of the step ledger can be of executions five seconds away; but a stretch whose executions are of other steps comes
out the same. Without this each second of rows had twelve seconds computed anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from correlator.joins import executions
from correlator.joins.executions import LOOKBACK_S, STRETCH_NS, Query, Told
from correlator.joins.gpu_time import POWER_NS, Found
from correlator.joins.ledger import OUTSIDE, column

KEPT = 20_000
"""Stretches that are remembered; of others, all that could change is taken to."""
REACH_NS = 5_000_000_000
"""How far from the executions of a step its rows in the ledger may lie."""
_LONG_NS = 60_000_000_000
_AHEAD_NS = 60_000_000_000

_STEPS = {
    "step_member": "-- within: step_member 0 s\nSELECT hash(process_uid) AS engine, min(step_ordinal) AS low,"
    " max(step_ordinal) AS high FROM step_member WHERE time_ns >= $since_ns AND time_ns <= $until_ns GROUP BY ALL",
    "engine_step": "-- within: engine_step 0 s\nSELECT hash(process_uid) AS engine, min(ordinal) AS low,"
    " max(ordinal) AS high FROM engine_step WHERE start_ns >= $since_ns AND start_ns <= $until_ns GROUP BY ALL",
}


@dataclass(frozen=True, slots=True)
class Made:
    """One stretch: who tells of steps around it, and by engine the least and the greatest number of its steps."""

    told: Told
    tellers: dict[int, int]
    """The engine of each process that tells."""
    steps: dict[int, tuple[int, int]]


class MadeOf:
    """What the stretches were made of when they were last computed."""

    def __init__(self, query: Query) -> None:
        """Ask the store with `query`."""
        self._query = query
        self._made: dict[int, Made] = {}

    def forget(self) -> None:
        """Forget all: every stretch that a row can reach is then taken to change."""
        self._made.clear()

    def note(self, found: Found) -> None:
        """Remember what the stretches of `found` were made of."""
        stretch = found.measured_start // STRETCH_NS
        step = found.measured.step
        codes = np.array(list(found.names.engine), np.int64)
        tellers = dict(zip(codes.tolist(), executions.engines_of_tellers(codes, found.names).tolist(), strict=True))
        edges = [0, *(np.flatnonzero(np.diff(stretch)) + 1).tolist(), len(stretch)]
        for low, high in itertools.pairwise(edges):
            if high > low:
                inside = step[low:high][step[low:high] >= OUTSIDE]
                engine, ordinal = found.steps.engine[inside], found.steps.ordinal[inside]
                steps = {
                    code: (int(ordinal[engine == code].min()), int(ordinal[engine == code].max()))
                    for code in np.unique(engine).tolist()
                }
                number = int(stretch[low])
                self._made.pop(number, None)
                self._made[number] = Made(found.names.engines_in[number], tellers, steps)
        while len(self._made) > KEPT:
            self._made.pop(next(iter(self._made)))

    def by_steps(self, table: str, low_ns: int, high_ns: int) -> Iterable[int]:
        """Yield the stretches that rows of the step ledger in [low_ns, high_ns] can change."""
        first, last = (low_ns - REACH_NS) // STRETCH_NS, (high_ns + REACH_NS) // STRETCH_NS
        if high_ns - low_ns > _LONG_NS:
            yield from range(first, last + 1)
            return
        rows = self._query(_STEPS[table], {"since_ns": low_ns, "until_ns": high_ns})
        came = list(zip(*(column(rows, c).tolist() for c in ("engine", "low", "high")), strict=True))
        for number in range(first, last + 1):
            made = self._made.get(number)
            if made is None or any(_changes(made, table, *each) for each in came):
                yield number

    def by_power(self, low_ns: int, high_ns: int) -> tuple[int, int] | None:
        """Return the first and last time of executions that readings of power in [low_ns, high_ns] can change."""
        rows = self._query(executions.load("power_new"), {"since_ns": low_ns, "until_ns": high_ns})
        if not len(rows):
            return None
        first = any(rows["first"].to_pylist()) or high_ns - low_ns > POWER_NS
        return low_ns - (POWER_NS if first else 0), high_ns + POWER_NS

    def by_waits(self, low_ns: int, high_ns: int) -> Iterable[int]:
        """Yield the stretches in which somebody waited, as events in [low_ns, high_ns] tell."""
        bound = {"since_ns": low_ns, "until_ns": high_ns, "stretch_ns": STRETCH_NS}
        rows = self._query(executions.load("wait_new"), bound)
        for first, last in zip(column(rows, "first").tolist(), column(rows, "last").tolist(), strict=True):
            yield from range(first, last + 1)

    def by_messages(self, low_ns: int, high_ns: int) -> tuple[int, int]:
        """Return the first and last time of executions that messages in [low_ns, high_ns] can change: an execution is of
        the first message after it, or of the one after that."""
        rows = self._query(executions.load("message_before"), {"since_ns": low_ns, "until_ns": high_ns})
        return min(rows["time_ns"].to_pylist(), default=low_ns), high_ns

    def by_kernels(self, low_ns: int, high_ns: int) -> tuple[int, int]:
        """Return the first and last time of executions that others, which began in [low_ns, high_ns], can change: those
        that ran at once; where a copy ends a step, all until the step's message; where a record names its step, those
        of the minute after it, for then its process is taken to name all its steps."""
        after = self._query(executions.load("message_after"), {"since_ns": high_ns, "until_ns": high_ns + _AHEAD_NS})
        messages = [t for t in after["time_ns"].to_pylist() if t is not None]
        (found,) = self._query(executions.load("kernel_near"), {"since_ns": low_ns, "until_ns": high_ns}).to_pylist()
        first = min([found["first_ns"], *([found["copied_ns"] or low_ns] if messages else [])])
        stamped = found["last_ns"] + (LOOKBACK_S * _S if found["stamped"] else 0)
        return first, max([stamped, *messages])


_S = 1_000_000_000


def _changes(made: Made, table: str, process: int, low: int, high: int) -> bool:
    if process not in (made.told.engines if table == "step_member" else made.told.tellers):
        return True
    least, greatest = made.steps.get(made.tellers.get(process, process), (1, 0))
    return least <= high and low <= greatest
