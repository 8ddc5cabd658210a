"""A toy of Triton's dynamic batcher: requests that wait are computed together, and its trace stamps all of a batch alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from tests.simulator.toy_engine import BASE, MEMBER, MS, Plan
from warpline import schema

MOST, SERVER = 8, "n1:1:100"
Batch = tuple[int, list[int]]
"""(when its computation began, its requests)"""


def parts(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the tables that sources see, and those that say what was; `lost_ratio` of the requests is not traced."""
    random = np.random.default_rng(plan.seed)
    arrive = BASE + np.cumsum(random.exponential(1e9 / (plan.rate * 40), int(plan.rate * 40 * plan.seconds))).astype(
        int
    )
    batches, ends, kernels = _batches(arrive, random)
    return {
        "seen": {"engine_phase": _phases(arrive, batches, ends, random, plan.lost_ratio), **_gpu(kernels)},
        "truth": _truth(batches, ends, kernels),
    }


def _batches(arrive: np.ndarray, random: np.random.Generator) -> tuple[list[Batch], list[int], list[list[Any]]]:
    found, ends, kernels, free, at = [], [], [], BASE, 0
    while at < len(arrive):
        begin = max(free, int(arrive[at])) + MS // 10
        members = list(range(at, min(at + MOST, int(np.searchsorted(arrive, begin, side="right")))))
        at = members[-1] + 1
        ran, now = [], begin + MS // 20
        for name, ns in (("in", 30_000), ("gemm", 2 * MS + len(members) * MS), ("attention", MS // 2), ("out", 20_000)):
            took = int(ns * random.lognormal(0, 0.05))
            ran.append((name, now, now + took))
            now += took + 3000
        found.append((begin, members))
        ends.append(now + MS // 20)
        kernels.append(ran)
        free = ends[-1] + MS // 5
    return found, ends, kernels


def _phases(
    arrive: np.ndarray, batches: list[Batch], ends: list[int], random: np.random.Generator, lost: float
) -> pa.RecordBatch:
    rows = []
    for (begin, members), end in zip(batches, ends, strict=True):
        cuts = (begin, begin + MS // 25, end - MS // 25, end)
        for request in members:
            if random.random() < lost:
                continue
            told = (f"client-{request}", json.dumps({"id": request, "node": "n1"}))
            rows.append((int(arrive[request]), begin, "queue", *told))
            for phase, low, high in zip(
                ("compute_input", "compute", "compute_output"), cuts[:-1], cuts[1:], strict=True
            ):
                rows.append((low, high, phase, *told))
    names = ("start_ns", "end_ns", "phase", "request_id", "details")
    columns = {n: list(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}
    same = {"node": "recording:1", "recording_uid": "1", "model": "classifier"}
    return schema.table("engine_phase").batch({**columns, **same}, len(rows))


def _gpu(kernels: list[list[Any]]) -> dict[str, pa.RecordBatch]:
    ran = [each for step in kernels for each in step]
    start, end = (np.array([each[i] for each in ran]) for i in (1, 2))
    same = {"node": "n1", "process_uid": SERVER, "session": 0, "correlation_id": np.arange(len(ran)), "simulated": True}
    launch = {"start_ns": start - 20_000, "end_ns": start - 15_000, "api": "cudaLaunchKernel", "thread_id": 7, **same}
    kernel = {
        "start_ns": start,
        "end_ns": end,
        "gpu_uuid": "GPU-0",
        "kernel_class": ["memory" if each[0] in ("in", "out") else each[0] for each in ran],
        "kind": ["memcpy" if each[0] in ("in", "out") else "kernel" for each in ran],
        **same,
    }
    return {
        "launch": schema.table("launch").batch(launch, len(ran)),
        "gpu_kernel": schema.table("gpu_kernel").batch(kernel, len(ran)),
    }


def _truth(batches: list[Batch], ends: list[int], kernels: list[list[Any]]) -> dict[str, pa.Table]:
    rows = []
    for step, ((_, members), ran) in enumerate(zip(batches, kernels, strict=True)):
        cost = sum(end - start for _, start, end in ran) / len(members)
        rows += [(step, f"client-{m}", 1, 0, False, 0, cost) for m in members]
    begins = [begin for begin, _ in batches]
    return {
        "member": pa.table({n: list(c) for n, c in zip(MEMBER, zip(*rows, strict=True), strict=True)}),
        "step": pa.table({"step": np.arange(len(begins)), "scheduled_ns": begins, "start_ns": begins, "end_ns": ends}),
    }
