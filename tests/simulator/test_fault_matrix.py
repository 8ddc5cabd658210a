"""The fault matrix: in every cell sums hold, no wrong row is called exact, and what is lost stays lost.

Here are the cells of engines and GPUs; those of sockets are in test_fault_matrix_sockets.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.simulator.faults import (
    Fault,
    Seen,
    burst,
    doubled,
    gpu_clock,
    idle_replica,
    late,
    losing,
    one_after_the_other,
    out_of_step,
    process_id_taken_again,
    ranks,
    reversed_times,
    slewed_clock,
    stepped_clock,
    unchanged,
    wall_clock,
    whole_graphs,
    without,
    without_engine,
    without_times,
    wrapped_ids,
)
from tests.simulator.score import score, toy, truth_cost
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

PREEMPTED = {"rate": 14, "prompt": 250, "output": 400, "kv_tokens": 25_000, "most_requests": 256}
PLUGIN = {"told": "plugin"}
SGLANG = {"told": "spans", "mixed": False}
CELLS: dict[str, tuple[dict[str, Any], Fault]] = {
    "asynchronous": ({}, unchanged),
    "synchronous": ({"asynchronous": False}, unchanged),
    "preempted": (PREEMPTED, unchanged),
    "drafts": ({"drafts": 3, "asynchronous": False}, unchanged),
    "messages lost": ({"lost_ratio": 0.05}, unchanged),
    "a message of a thousand lost": ({"lost_ratio": 0.001}, unchanged),
    "launches lost": ({}, losing("launch", 0.2)),
    "events lost": ({}, losing("engine_event", 0.1)),
    "emissions lost": ({}, losing("engine_emission", 0.05)),
    "everything twice": ({}, doubled),
    "one at a time": ({"rate": 0.5}, unchanged),
    "a large batch": ({"rate": 60, "prompt": 100, "output": 300, "most_requests": 256}, unchanged),
    "whole prompts": ({"budget": 16_384}, unchanged),
    "small chunks": ({"budget": 256}, unchanged),
    "nothing cached": ({"cached_ratio": 0.0}, unchanged),
    "most cached": ({"cached_ratio": 0.9}, unchanged),
    "one draft": ({"drafts": 1, "asynchronous": False}, unchanged),
    "eight drafts": ({"drafts": 8, "asynchronous": False}, unchanged),
    "drafts that are never accepted": ({"drafts": 3, "accepted": 0.0, "asynchronous": False}, unchanged),
    "drafts that are always accepted": ({"drafts": 3, "accepted": 1.0, "asynchronous": False}, unchanged),
    "clients that go away": ({"aborted_ratio": 0.3}, unchanged),
    "clients that go away, messages lost": ({"aborted_ratio": 0.3, "lost_ratio": 0.05}, unchanged),
    "clients that go away, synchronous": ({"aborted_ratio": 0.3, "asynchronous": False}, unchanged),
    "preempted and messages lost": ({**PREEMPTED, "lost_ratio": 0.02}, unchanged),
    "a fifth of the messages lost": ({"lost_ratio": 0.2}, unchanged),
    "messages lost in a burst": ({}, burst),
    "seen from the middle": ({}, late),
    "executions lost": ({}, losing("gpu_kernel", 0.2)),
    "no executions": ({}, losing("gpu_kernel", 1.0)),
    "no launches": ({}, losing("launch", 1.0)),
    "requests lost": ({}, losing("engine_request", 0.2)),
    "kernels with reversed times": ({}, reversed_times),
    "kernels without times": ({}, without_times),
    "whole graphs alone": ({}, whole_graphs),
    "the GPU's clock 10 ms ahead": ({}, gpu_clock(10_000_000)),
    "the GPU's clock 100 µs behind, and drifting": ({}, gpu_clock(-100_000, 50e-6)),
    "the node's clock set forward": ({}, stepped_clock),
    "the node's clock slewed": ({}, slewed_clock),
    "correlation ids that begin anew": ({}, wrapped_ids),
    "a process id taken again": ({}, process_id_taken_again),
    "plugin": (PLUGIN, unchanged),
    "plugin, steps lost": ({**PLUGIN, "lost_ratio": 0.05}, unchanged),
    "plugin, preempted": ({**PLUGIN, **PREEMPTED}, unchanged),
    "plugin, executions lost": (PLUGIN, losing("gpu_kernel", 0.2)),
    "plugin, launches lost": (PLUGIN, losing("launch", 0.2)),
    "plugin, the node's clock slewed": (PLUGIN, slewed_clock),
    "two tensor-parallel ranks": (PLUGIN, ranks(2)),
    "eight tensor-parallel ranks": (PLUGIN, ranks(8)),
    "two pipeline stages": (PLUGIN, ranks(2, quick=0.4)),
    "a rank out of step": (PLUGIN, ranks(4, out_of_step=0.1)),
    "a rank out of step, steps lost": ({**PLUGIN, "lost_ratio": 0.05}, ranks(2, out_of_step=0.1)),
    "a rank whose launches were lost": (PLUGIN, one_after_the_other(ranks(2), losing("launch", 0.2))),
    "an idle data-parallel replica": (PLUGIN, idle_replica),
    "the decode's engine lost": ({}, without_engine),
    "SGLang's batches": (SGLANG, unchanged),
    "SGLang's batches, synchronous": ({**SGLANG, "asynchronous": False}, unchanged),
    "SGLang's batches, prompts among decodes": ({**SGLANG, "mixed": True, "budget": 512, "rate": 14}, unchanged),
    "SGLang's batches, retracted": ({**SGLANG, **PREEMPTED}, unchanged),
    "SGLang's batches, spans lost": ({**SGLANG, "lost_ratio": 0.05}, unchanged),
    "SGLang's batches, a fifth of the spans lost": ({**SGLANG, "lost_ratio": 0.2}, unchanged),
    "SGLang's batches, launches lost": (SGLANG, losing("launch", 0.2)),
    "SGLang's batches, executions lost": (SGLANG, losing("gpu_kernel", 0.2)),
    "SGLang's batches, everything twice": (SGLANG, doubled),
    "SGLang's batches, wall clock never read": (SGLANG, without("clock_pair")),
    "SGLang's batches, wall clock 50 µs off": (SGLANG, wall_clock(50_000)),
    "Triton's windows": ({"told": "windows"}, unchanged),
    "Triton's windows, executions lost": ({"told": "windows"}, losing("gpu_kernel", 0.2)),
    "Triton's windows, a tenth not traced": ({"told": "windows", "lost_ratio": 0.1}, unchanged),
}


def joined(seen: Seen, folder: Path) -> Store:
    """Return a store in which all that was seen is joined."""
    store = Store(Settings(state_dir=str(folder / "state"), correlator_disk_reserve_mb=0))
    store.write([Batch(schema.table(n), r.combine_chunks().to_batches()[0], n) for n, r in seen.items() if len(r)])
    Joins(store.settings, store).catch_up()
    return store


def counted_as_the_truth_does(members: pa.Table, truth: Seen) -> pa.Table:
    """Return the ledger in the truth's numbers and names: steps that were only seen on the GPU are found by when they ended,
    requests that were only seen on sockets by the response's id."""
    level = np.array(members["level"].cast(pa.string()).to_pylist())
    number = members["step_ordinal"].to_numpy()
    place = np.searchsorted(truth["step"]["start_ns"].to_numpy(), members["time_ns"].to_numpy(), side="left") - 1
    number = np.where(np.isin(level, ["plugin", "wire", "totals"]), number, np.maximum(place, 0))
    whole = {name[:-9]: name for name in truth["member"]["internal_id"].to_pylist()}
    names = [whole.get(name, name) for name in members["internal_id"].to_pylist()]
    members = members.set_column(members.schema.get_field_index("internal_id"), "internal_id", pa.array(names))
    return members.set_column(members.schema.get_field_index("step_ordinal"), "step_ordinal", pa.array(number))


@pytest.mark.parametrize("cell", CELLS)
def test_in_every_cell_sums_hold_and_nothing_wrong_is_called_exact(cell: str, tmp_path: Path) -> None:
    plan, fault = CELLS[cell]
    seen, truth = toy(tmp_path, **{"seconds": 2, **plan})
    seen = fault(seen)
    store = joined(seen, tmp_path)
    sums = store.query(
        """WITH good AS (SELECT DISTINCT * FROM gpu_kernel WHERE coalesce(validity, 'ok') = 'ok')
        SELECT (SELECT coalesce(sum(share_ns), 0)::BIGINT FROM share) AS shared,
            (SELECT coalesce(sum(end_ns - start_ns), 0)::BIGINT FROM good) AS measured"""
    ).to_pylist()[0]
    members = store.query("SELECT * FROM step_member")
    strangers = store.query(
        r"""SELECT DISTINCT process_uid, owner FROM share
        WHERE owner NOT LIKE '\_\_%' ESCAPE '\' AND split_part(process_uid, ':', 1) <> 'n1'"""
    )
    store.close()
    assert sums["shared"] == sums["measured"]
    assert strangers.to_pylist() == []  # No request is given time of a process that is not its engine.
    members = counted_as_the_truth_does(members, truth)
    found = score(truth, members, truth_cost(truth, members), by_tokens=True)
    assert found.wrong_exact == 0
    assert found.calibration_error <= 0.05


def owners(store: Store, where: str) -> dict[str, int]:
    rows = store.query(f"SELECT owner, sum(share_ns)::BIGINT AS ns FROM share WHERE {where} GROUP BY owner").to_pylist()
    return {row["owner"]: row["ns"] for row in rows}


def test_steps_whose_ranks_disagree_belong_to_nobody_on_any_rank(tmp_path: Path) -> None:
    seen, _ = toy(tmp_path, seconds=2, told="plugin")
    seen = ranks(4, out_of_step=0.1)(seen)
    refused = ", ".join(map(str, sorted(out_of_step(seen))))
    assert refused.count(",") > 50
    store = joined(seen, tmp_path)
    wrong, right = owners(store, f"step_ordinal IN ({refused})"), owners(store, f"step_ordinal NOT IN ({refused})")
    gpus = store.query(f"SELECT count(DISTINCT gpu_uuid) AS n FROM share WHERE step_ordinal IN ({refused})")["n"][
        0
    ].as_py()
    store.close()
    assert set(wrong) == {"__unattributed__"} and wrong["__unattributed__"] > 0
    assert "__unattributed__" not in right and len(right) > 5
    assert gpus == 4


def test_dummy_steps_of_an_idle_replica_are_a_row_of_the_sum(tmp_path: Path) -> None:
    seen, _ = toy(tmp_path, seconds=2, told="plugin")
    seen = idle_replica(seen)
    store = joined(seen, tmp_path)
    idle, busy = owners(store, "process_uid = 'n1:1:300'"), owners(store, "process_uid = 'n1:1:100'")
    store.close()
    assert set(idle) == {"__dummy__"} and "__dummy__" not in busy
    assert idle["__dummy__"] == sum(busy.values())


@pytest.mark.parametrize("plan", [{}, PLUGIN, SGLANG], ids=["wire", "plugin", "batches"])
def test_what_is_lost_of_steps_goes_to_nobody(plan: dict[str, Any], tmp_path: Path) -> None:
    seen, truth = toy(tmp_path, seconds=4, lost_ratio=0.05, **plan)
    store = joined(seen, tmp_path)
    said = owners(store, "true")
    store.close()
    true: dict[str, float] = {}
    for row in truth["member"].to_pylist():
        true[row["internal_id"]] = true.get(row["internal_id"], 0) + row["cost_ns"]
    wrong = sum(max(ns - true.get(name, 0), 0) for name, ns in said.items() if not name.startswith("__"))
    assert wrong / sum(said.values()) < 0.06
    assert said["__unattributed__"] / sum(said.values()) > 0.02
