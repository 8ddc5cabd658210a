"""The short form of the fault matrix: in every cell sums hold, no wrong row is called exact, and what is lost stays lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.simulator.score import score, toy, truth_cost
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

Seen = dict[str, pa.Table]


def unchanged(seen: Seen) -> Seen:
    return seen


def losing(table: str, ratio: float) -> Callable[[Seen], Seen]:
    def lose(seen: Seen) -> Seen:
        kept = np.random.default_rng(9).random(len(seen[table])) >= ratio
        return {**seen, table: seen[table].filter(pa.array(kept))}

    return lose


def doubled(seen: Seen) -> Seen:
    return {name: pa.concat_tables([rows, rows]) for name, rows in seen.items()}


def without_times(seen: Seen) -> Seen:
    """CUPTI's records without a time: start = end = 0 in its own words, `no_time` in ours."""
    rows = seen["gpu_kernel"]
    bad = pa.array(np.arange(len(rows)) % 7 == 0)
    words = pc.if_else(bad, "no_time", "ok").dictionary_encode()
    return {**seen, "gpu_kernel": rows.set_column(rows.schema.get_field_index("validity"), "validity", words)}


CELLS: dict[str, tuple[dict[str, Any], Callable[[Seen], Seen]]] = {
    "asynchronous": ({}, unchanged),
    "synchronous": ({"asynchronous": False}, unchanged),
    "preempted": ({"rate": 14, "prompt": 250, "output": 400, "kv_tokens": 25_000, "most_requests": 256}, unchanged),
    "drafts": ({"drafts": 3, "asynchronous": False}, unchanged),
    "messages lost": ({"lost_ratio": 0.05}, unchanged),
    "launches lost": ({}, losing("launch", 0.2)),
    "events lost": ({}, losing("engine_event", 0.1)),
    "emissions lost": ({}, losing("engine_emission", 0.05)),
    "everything twice": ({}, doubled),
    "kernels without times": ({}, without_times),
}


@pytest.mark.parametrize("cell", CELLS)
def test_in_every_cell_sums_hold_and_nothing_wrong_is_called_exact(cell: str, tmp_path: Path) -> None:
    plan, fault = CELLS[cell]
    seen, truth = toy(tmp_path, seconds=3, **plan)
    seen = fault(seen)
    store = Store(Settings(state_dir=str(tmp_path / "state"), correlator_disk_reserve_mb=0))
    store.write([Batch(schema.table(n), r.combine_chunks().to_batches()[0], n) for n, r in seen.items()])
    Joins(store.settings, store).catch_up()
    sums = store.query(
        """WITH good AS (SELECT DISTINCT * FROM gpu_kernel WHERE coalesce(validity, 'ok') = 'ok')
        SELECT (SELECT sum(share_ns)::BIGINT FROM share) AS shared,
            (SELECT sum(end_ns - start_ns)::BIGINT FROM good) AS measured"""
    ).to_pylist()[0]
    members = store.query("SELECT * FROM step_member")
    store.close()
    assert sums["shared"] == sums["measured"]
    found = score(truth, members, truth_cost(truth, members), by_tokens=True)
    assert found.wrong_exact == 0
    assert found.calibration_error <= 0.05


def test_time_of_steps_whose_messages_were_lost_goes_to_nobody(tmp_path: Path) -> None:
    seen, truth = toy(tmp_path, seconds=4, lost_ratio=0.05)
    store = Store(Settings(state_dir=str(tmp_path / "state"), correlator_disk_reserve_mb=0))
    store.write([Batch(schema.table(n), r.combine_chunks().to_batches()[0], n) for n, r in seen.items()])
    Joins(store.settings, store).catch_up()
    rows = store.query("SELECT owner, sum(share_ns)::BIGINT AS ns FROM share GROUP BY owner").to_pylist()
    store.close()
    said = {r["owner"]: r["ns"] for r in rows}
    true: dict[str, float] = {}
    for row in truth["member"].to_pylist():
        true[row["internal_id"]] = true.get(row["internal_id"], 0) + row["cost_ns"]
    wrong = sum(max(ns - true.get(name, 0), 0) for name, ns in said.items() if not name.startswith("__"))
    assert wrong / sum(said.values()) < 0.06
