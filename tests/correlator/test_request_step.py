"""A step lasts from its first execution to the end of its last one, on however many GPUs and in whichever process it ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from correlator.explain import explain
from correlator.joins.stages import Joins
from correlator.storage.store import Store
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

MS, BASE = 1_000_000, 1_700_000_000_000_000_000
Row = dict[str, Any]
Tables = dict[str, list[Row]]


def joined(directory: Path, tables: Tables) -> Store:
    store = Store(Settings(state_dir=str(directory), correlator_disk_reserve_mb=0))
    for name, rows in tables.items():
        columns = {c: [row.get(c) for row in rows] for c in {c for row in rows for c in row}}
        store.write([Batch(schema.table(name), schema.table(name).batch(columns), name)])
    Joins(store.settings, store).catch_up()
    return store


def steps(store: Store, request: str) -> list[Row]:
    found: list[Row] = store.view("request_step", {"request": request}).read_all().to_pylist()
    return found


def ran(process: str, gpu: str, step: int, kernels: list[tuple[float, float]]) -> Tables:
    """Kernels of one rank of one step, (start, end) in ms, each with its launch."""
    every = list(enumerate(kernels))
    same = {"node": "n", "process_uid": process, "session": 0}
    return {
        "launch": [
            {**same, "start_ns": BASE, "end_ns": BASE + 500, "correlation_id": 100 * step + i, "step_ordinal": step}
            | {"api": "cudaLaunchKernel"}
            for i, _ in every
        ],
        "gpu_kernel": [
            {**same, "start_ns": BASE + int(low * MS), "end_ns": BASE + int(high * MS), "gpu_uuid": gpu}
            | {"correlation_id": 100 * step + i, "kind": "kernel", "kernel_class": "gemm"}
            for i, (low, high) in every
        ],
    }


def members(step: int, *names: str) -> Tables:
    known = {"node": "n", "process_uid": "engine", "engine_index": 0, "level": "plugin", "evidence": "exact"}
    return {
        "step_member": [
            {**known, "time_ns": BASE, "step_ordinal": step, "internal_id": name, "scheduled_tokens": 1}
            | {"phase": "decode", "sampled": True}
            for name in names
        ]
    }


def together(*parts: Tables) -> Tables:
    return {name: [row for part in parts for row in part.get(name, [])] for name in {n for p in parts for n in p}}


def test_a_step_of_kernels_that_are_far_apart_ends_with_the_last_of_them(tmp_path: Path) -> None:
    eager = [(1, 2), (12, 13), (30, 31)]
    store = joined(tmp_path, together(ran("engine", "GPU-0", 5, eager), members(5, "a", "b")))
    (step,) = steps(store, "a")
    store.close()
    assert (step["start_ns"] - BASE, step["end_ns"] - BASE) == (1 * MS, 31 * MS)
    assert step["busy_ns"] * 2 == step["occupancy_ns"] == step["busiest_ns"] == 3 * MS
    assert step["requests"] == 2 and step["exclusive_ns"] == 0


def test_ranks_of_workers_are_one_step_of_their_engine_and_the_busiest_counts_for_the_wall(tmp_path: Path) -> None:
    family = [{"start_ns": BASE, "node": "n", "process_uid": "engine", "parent_uid": "server"}]
    family += [{**family[0], "process_uid": f"worker{n}", "parent_uid": "engine"} for n in (0, 1)]
    ranks = [ran("worker0", "GPU-0", 5, [(1, 3), (5, 8)]), ran("worker1", "GPU-1", 5, [(2, 4), (6, 9)])]
    store = joined(tmp_path, together(*ranks, members(5, "a"), {"process": family}))
    (step,) = steps(store, "a")
    store.close()
    assert (step["process_uid"], step["level"]) == ("engine", "plugin")
    assert (step["start_ns"] - BASE, step["end_ns"] - BASE) == (1 * MS, 9 * MS)
    assert (step["occupancy_ns"], step["busiest_ns"], step["exclusive_ns"]) == (10 * MS, 5 * MS, 10 * MS)


def test_a_sibling_that_is_an_engine_itself_keeps_its_steps(tmp_path: Path) -> None:
    family = [{"start_ns": BASE, "node": "n", "process_uid": each, "parent_uid": "server"} for each in ("engine", "p")]
    other = {"step_member": [{**row, "process_uid": "p"} for row in members(5, "a")["step_member"]]}
    both = [ran("engine", "GPU-0", 5, [(1, 3)]), ran("p", "GPU-1", 5, [(4, 5)])]
    store = joined(tmp_path, together(*both, members(5, "a"), other, {"process": family}))
    found = steps(store, "a")
    store.close()
    assert [(s["process_uid"], s["occupancy_ns"]) for s in found] == [("engine", 2 * MS), ("p", 1 * MS)]


def test_results_of_before_ends_were_kept_are_read_and_their_step_ends_at_the_soonest(tmp_path: Path) -> None:
    store = joined(tmp_path, together(ran("engine", "GPU-0", 5, [(1, 2), (30, 31)]), members(5, "a")))
    store.close()
    (file,) = tmp_path.rglob("share.*.parquet")
    pq.write_table(pq.read_table(file).drop(["end_ns"]), file)
    store = Store(Settings(state_dir=str(tmp_path), correlator_disk_reserve_mb=0))
    (step,) = steps(store, "a")
    store.close()
    assert (step["start_ns"] - BASE, step["end_ns"] - BASE) == (1 * MS, 3 * MS)


@pytest.fixture
def served(tmp_path: Path) -> tuple[Store, Callable[..., pa.Table]]:
    """A request of two eager steps, 20 ms each, 2 ms of work in each, 5 ms between them; from 0 to 50 ms."""
    gaps = [ran("engine", "GPU-0", 5, [(1, 2), (20, 21)]), ran("engine", "GPU-0", 6, [(26, 27), (45, 46)])]
    engine = {"node": "n", "process_uid": "engine", "internal_id": "a-1", "engine_index": 0}
    events = [("queued", 0), ("scheduled", 0), ("first_token", 0), ("finished", 50)]
    tables = together(*gaps, members(5, "a-1"), members(6, "a-1"))
    tables["engine_request"] = [{**engine, "start_ns": BASE, "end_ns": BASE + 50 * MS, "external_id": "a"}]
    tables["engine_event"] = [{**engine, "kind": kind, "time_ns": BASE + at * MS} for kind, at in events]
    exchange = {"node": "n", "side": "server", "connection_id": 1, "ordinal": 0, "method": "POST", "response_id": "a"}
    tables["http_exchange"] = [{**exchange, "start_ns": BASE, "request_end_ns": BASE, "end_ns": BASE + 50 * MS}]
    store = joined(tmp_path, tables)
    return store, lambda name, **asked: store.view(name, asked).read_all()


def test_idle_time_within_steps_and_between_them_is_told_once(
    served: tuple[Store, Callable[..., pa.Table]],
) -> None:
    store, view = served
    found = explain(view, "a")
    store.close()
    parts = {part.name: part.ns for part in found.parts}
    assert parts == {"decode: own GPU time": 4 * MS, "decode: no kernel of its steps ran": 46 * MS}
    (stalls,) = [cause for cause in found.causes if "no GPU worked" in cause.sentence]
    assert stalls.ns == (18 + 5 + 18) * MS
