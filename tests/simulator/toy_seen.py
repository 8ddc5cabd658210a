"""What sources would see of the toy engine, and apart from that what was.

    python -m tests.simulator.toy_seen '{"seed": 1, "rate": 9}' DIRECTORY

writes `seen/<table>.arrow` and `truth/member.arrow`, `truth/step.arrow`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.simulator import toy_triton
from tests.simulator.toy_engine import MS, Plan, Request, Toy, simulate, truth
from tests.simulator.toy_trace import sglang
from warpline import no_pandas, schema


def seen(toy: Toy, everyone: list[Request]) -> dict[str, pa.RecordBatch]:
    tell = {"spans": sglang, "plugin": _plugin}.get(toy.plan.told, _wire)
    return {**tell(toy, everyone), "http_exchange": _exchanges(toy, everyone), **_gpu(toy)}


def _plugin(toy: Toy, everyone: list[Request]) -> dict[str, pa.RecordBatch]:
    """Return what the plugin tells: each step with its members, and the requests; the plan's share of the steps is lost."""
    kept = np.random.default_rng(toy.plan.seed + 1).random(len(toy.steps)) >= toy.plan.lost_ratio
    steps = [(n, s) for n, s in enumerate(toy.steps) if kept[n]]
    members = [(s.scheduled, n, r.name, tokens, context) for n, s in steps for r, tokens, context, _, _ in s.rows]
    marked = [(s.scheduled, s.scheduled + MS, n, len(s.rows), sum(r[1] for r in s.rows), 7 * n + 1) for n, s in steps]
    engine = {"node": "n1", "process_uid": "n1:1:100", "engine_index": 0, "simulated": True}
    known = ("time_ns", "step_ordinal", "internal_id", "scheduled_tokens", "computed_before_tokens")
    told = ("start_ns", "end_ns", "ordinal", "requests", "scheduled_tokens", "member_hash")
    certain = {"level": "plugin", "evidence": "exact", "confidence": 1.0}
    return {
        "step_member": _batch("step_member", known, members, {**engine, **certain}),
        "engine_step": _batch("engine_step", told, marked, engine),
        "engine_request": _requests(everyone, engine),
    }


def _requests(everyone: list[Request], engine: dict[str, Any]) -> pa.RecordBatch:
    names = ("start_ns", "internal_id", "external_id", "prompt_tokens", "output_tokens")
    return _batch("engine_request", names, [(r.arrive, r.name, r.name[:-9], r.prompt, r.out) for r in everyone], engine)


def _wire(toy: Toy, everyone: list[Request]) -> dict[str, pa.RecordBatch]:
    plan, random = toy.plan, np.random.default_rng(toy.plan.seed + 1)
    engine = {"node": "n1", "process_uid": "n1:1:100", "engine_index": 0, "simulated": True}
    kept = random.random(len(toy.messages)) >= plan.lost_ratio
    messages = [m for m in toy.messages if kept[m[1]]]
    emissions = [e for e in toy.emissions if kept[e[1]]]
    return {
        "engine_message": _batch(
            "engine_message",
            (
                "engine_time_ns",
                "message",
                "running",
                "waiting",
                "preempted_requests",
                "preempted_queried_tokens",
                "preempted_hit_tokens",
                "drafted_requests",
                "draft_tokens",
            ),
            messages,
            {**engine, "time_ns": [m[0] + 80_000 for m in messages]},
        ),
        "engine_emission": _batch(
            "engine_emission",
            (
                "time_ns",
                "message",
                "internal_id",
                "new_tokens",
                "finish_reason",
                "prompt_tokens",
                "computed_tokens",
                "cached_tokens",
            ),
            emissions,
            engine,
        ),
        "engine_event": _batch("engine_event", ("time_ns", "internal_id", "kind"), toy.events, engine),
        "engine_request": _requests(everyone, engine),
    }


def _exchanges(toy: Toy, everyone: list[Request]) -> pa.RecordBatch:
    """Return both ends of each request's exchange, the client on another port of the same node."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for at, _, name, *_ in toy.emissions:
        first.setdefault(name, at)
        last[name] = at
    rows = []
    for i, request in enumerate(everyone):
        for side, apart in (("client", 200_000), ("server", 0)):
            begin = request.arrive - 2 * MS - apart
            end = last[request.name] + MS + apart
            ends = ("10.0.0.1", 20_000 + i, "10.0.0.2", 8000)
            ends = ends if side == "client" else ends[2:] + ends[:2]
            http = (
                "POST",
                "/v1/chat/completions",
                200,
                request.name[:-9],
                request.arrive - MS,
                first[request.name],
                end,
            )
            process = "n1:1:7" if side == "client" else "n1:1:50"
            rows.append((begin, end, side, i * 2 + (side == "server"), 0, 0, *ends, *http, "complete", process))
    names = (
        "start_ns",
        "end_ns",
        "side",
        "connection_id",
        "ordinal",
        "request_offset_bytes",
        "local_address",
        "local_port",
    )
    names += ("peer_address", "peer_port", "method", "path", "status", "response_id", "request_end_ns", "first_body_ns")
    names += ("last_chunk_ns", "ended_by", "process_uid")
    return _batch("http_exchange", names, rows, {"node": "n1"})


def _gpu(toy: Toy) -> dict[str, pa.RecordBatch]:
    launches, kernels = [], []
    for ordinal, step in enumerate(toy.steps):
        for i, (name, start, end) in enumerate(step.kernels):  # type: ignore[attr-defined]
            at = step.scheduled + MS // 10 + i * MS // 5
            correlation = ordinal * 8 + i
            launches.append(
                (at, at + 5000, correlation, ordinal if toy.plan.plugin or toy.plan.told == "plugin" else None)
            )
            kernels.append(
                (step.start + start, step.start + end, correlation, name, "memcpy" if name == "memory" else "kernel")
            )
    worker = {"node": "n1", "process_uid": "n1:1:100", "session": 0, "simulated": True}
    return {
        "launch": _batch(
            "launch",
            ("start_ns", "end_ns", "correlation_id", "step_ordinal"),
            launches,
            {**worker, "api": "cudaLaunchKernel", "thread_id": 100},
        ),
        "gpu_kernel": _batch(
            "gpu_kernel",
            ("start_ns", "end_ns", "correlation_id", "kernel_class", "kind"),
            kernels,
            {**worker, "gpu_uuid": "GPU-0"},
        ),
    }


def _batch(table: str, names: tuple[str, ...], rows: list[tuple[Any, ...]], more: dict[str, Any]) -> pa.RecordBatch:
    columns: list[Any] = list(zip(*rows, strict=True)) or [()] * len(names)
    whole = {n: [None if v == -1 else v for v in c] for n, c in zip(names, columns, strict=True)}
    return schema.table(table).batch({**whole, **more}, rows=len(rows))


def parts(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the tables of `seen` and of `truth`."""
    if plan.told == "windows":
        return toy_triton.parts(plan)
    toy, everyone = simulate(plan)
    return {"seen": seen(toy, everyone), "truth": truth(toy)}


def main() -> None:
    no_pandas.keep_out()
    plan, directory = Plan(**json.loads(sys.argv[1])), Path(sys.argv[2])
    for part, tables in parts(plan).items():
        (directory / part).mkdir(parents=True, exist_ok=True)
        for name, rows in tables.items():
            with (
                pa.OSFile(str(directory / part / f"{name}.arrow"), "wb") as sink,
                pa.ipc.new_stream(sink, rows.schema) as out,
            ):
                out.write(rows)


if __name__ == "__main__":
    main()
