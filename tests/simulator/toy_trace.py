"""The toy engine's steps as SGLang's trace tells them (srt/observability, 0.5.23): events `schedule` that name a batch.

tests/correlator/test_batches.py holds the same query against spans that SGLang's own code made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tests.simulator.toy_engine import BASE, Request, Step, Toy
from warpline import schema

AHEAD_NS = 3_000_000
"""What the wall clock, by which spans are stamped, is ahead of node time."""
THREAD = 100
"""The scheduler's thread, by its own number: the one that launches."""


@dataclass(frozen=True)
class Traced:
    """A run as a trace tells it: requests with their tokens, and steps with the numbers of their requests."""

    names: list[str]
    arrive: list[int]
    prompt: list[int]
    cached: list[int]
    steps: list[tuple[int, list[int], bool]]
    """(when it was scheduled, its requests, whether it is of decodes alone)."""
    retracted: list[tuple[int, int]]
    """(when, request)."""


def sglang(toy: Toy, everyone: list[Request]) -> dict[str, pa.RecordBatch]:
    """Return `span`, of which the plan's share is lost, and the reading of clocks that goes with it."""
    number = {r.name: i for i, r in enumerate(everyone)}
    run = Traced(
        [r.name for r in everyone],
        [r.arrive for r in everyone],
        [r.prompt for r in everyone],
        [r.cached for r in everyone],
        [(s.scheduled, [number[r.name] for r, *_ in s.rows], _decodes(s)) for s in toy.steps],
        [(at, number[name]) for at, name, kind in toy.events if kind == "preempted"],
    )
    return spans(run, toy.plan.lost_ratio, toy.plan.seed + 1)


def _decodes(step: Step) -> bool:
    return all(tokens == 1 and context >= r.prompt for r, tokens, context, _, _ in step.rows)


def spans(run: Traced, lost: float, seed: int) -> dict[str, pa.RecordBatch]:
    """Return `span`, without the share of it that is lost, and `clock_pair`."""
    rows = [row for number in range(len(run.names)) for row in _request(number, run)]
    for number, (at, members, decode) in enumerate(run.steps):
        rows += _step(number, at, members, decode)
    rows += [_span(n, _id(n, 3, at), "retract", at, _event(at, "retract", {})) for at, n in run.retracted]
    kept = np.random.default_rng(seed).random(len(rows)) >= lost
    rows = [row for row, k in zip(rows, kept.tolist(), strict=True) if k]
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in _COLUMNS}
    told = {"scope": "sglang server", "service": "sglang", "resource": json.dumps({"service.instance.id": "1"})}
    clock = {"time_ns": BASE, "monotonic_ns": BASE, "boottime_ns": BASE, "realtime_ns": BASE + AHEAD_NS}
    return {
        "span": schema.table("span").batch({**columns, **told}, len(rows)),
        "clock_pair": schema.table("clock_pair").batch(
            {**clock, "node": "n1", "boot_id": "1", "half_width_ns": 100}, rows=1
        ),
    }


_COLUMNS = ("start_ns", "end_ns", "trace_id", "span_id", "parent_span_id", "name", "attributes", "events")


def _request(number: int, run: Traced) -> list[dict[str, Any]]:
    """Return the request's own span and that of its thread."""
    told = {"gen_ai.usage.prompt_tokens": run.prompt[number], "gen_ai.usage.cached_tokens": run.cached[number]}
    root = _span(number, _id(number, 0, 0), f" Req {run.names[number][-8:]}", run.arrive[number], None)
    thread = _span(number, _id(number, 1, 0), "Scheduler [TP 0]", run.arrive[number], None)
    attributes = ({"rid": run.names[number], "module": "sglang::request", **told}, {"pid": THREAD, "tp_rank": 0})
    return [
        {**root, "parent_span_id": None, "attributes": json.dumps(attributes[0])},
        {**thread, "parent_span_id": _id(number, 0, 0), "attributes": json.dumps(attributes[1])},
    ]


def _step(number: int, at: int, members: list[int], decode: bool) -> list[dict[str, Any]]:
    mode = "decode" if decode else "prefill"
    event = _event(at, "schedule", {"bid": f"{number:08x}", "batch_size": len(members), "forward_mode": mode})
    name = "decode_loop" if decode else "prefill_forward"
    return [_span(n, _id(n, 2, number), name, at, event) for n in members]


def _span(number: int, span_id: int, name: str, at: int, events: str | None) -> dict[str, Any]:
    return {
        "start_ns": at + AHEAD_NS,
        "end_ns": at + AHEAD_NS + 1000,
        "trace_id": (number + 1).to_bytes(16, "big"),
        "span_id": span_id,
        "parent_span_id": _id(number, 1, 0),
        "name": name,
        "events": events,
    }


def _event(at: int, name: str, attributes: dict[str, Any]) -> str:
    return json.dumps([{"time_ns": at + AHEAD_NS, "name": name, "attributes": attributes}])


def _id(number: int, kind: int, place: int) -> int:
    """Return a span id that no other span has."""
    return ((number + 1) << 42) | (kind << 40) | (place % (1 << 40))
