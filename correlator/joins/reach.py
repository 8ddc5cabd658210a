"""The stages of the joins, and how far in time a row of a table reaches in each."""

from __future__ import annotations

from dataclasses import dataclass

from correlator.joins.executions import LOOKBACK_S, STRETCH_NS

_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its stretch of time, how many stretches it takes at once, and how far a row of a table reaches."""

    name: str
    stretch_ns: int
    at_once: int
    reach: dict[str, tuple[int, int]]
    """Table → (ns before, ns after): a row can change results in [time - before, time + after]."""
    of: tuple[str, ...] = ()
    """Tables without whose rows a stretch has no results; none where results may lie beside the rows that they are of."""


LOOKBACK_NS = 120 * _S
"""How far before a stretch the wire is replayed from: a request that was scheduled earlier has an inexact context."""

STAGES = (
    Stage(
        "wire",
        20 * _S,
        1,
        {
            **dict.fromkeys(
                ("engine_message", "engine_emission", "engine_event", "engine_request"), (30 * _S, LOOKBACK_NS)
            ),
            # Where no engine tells its steps, they are counted on the GPU, over the whole of each request (stays.py), or
            # named in its trace, by the wall clock (batches.py).
            **dict.fromkeys(
                ("span", "engine_phase", "clock_pair", "http_exchange", "launch", "gpu_kernel"), (30 * _S, LOOKBACK_NS)
            ),
        },
    ),
    Stage(
        "identity",
        60 * _S,
        1,
        {
            **dict.fromkeys(("http_exchange", "engine_request", "loss"), (60 * _S, 60 * _S)),
            "connection": (0, 60 * _S),
        },
        ("http_exchange", "engine_request"),
    ),
    Stage("clock", 60 * _S, 1, {"http_exchange": (90 * _S, 30 * _S), "connection": (0, 60 * _S)}),
    Stage(
        "gpu",
        STRETCH_NS,
        60,
        {
            "gpu_kernel": (_S // 10, _S // 10),
            "launch": (_S // 10, LOOKBACK_S * _S),
            # Of what these reach, only the stretches that they change (made_of.py).
            "step_member": (5 * _S, 5 * _S),
            "engine_step": (5 * _S, 5 * _S),
            "engine_message": (5 * _S, 0),
            "gpu_sample": (5 * _S, 5 * _S),
        },
        ("gpu_kernel",),
    ),
    # Of the stretches whose shares were made anew, and of those in which somebody waited (`_came`).
    Stage("blame", STRETCH_NS, 60, {}),
)
BY_NAME = {stage.name: stage for stage in STAGES}
