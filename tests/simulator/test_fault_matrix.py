"""The fault matrix: in every cell sums hold, no wrong row is called exact, and what is lost stays lost."""

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


def burst(seen: Seen) -> Seen:
    """A quarter of a second in which nothing of the engine was seen."""
    names = ("engine_message", "engine_emission", "engine_event")
    times = seen["engine_message"]["time_ns"].to_numpy()
    low = int(times[len(times) // 2])
    apart = {
        n: (seen[n]["time_ns"].to_numpy() < low) | (seen[n]["time_ns"].to_numpy() > low + 250_000_000) for n in names
    }
    return {**seen, **{n: seen[n].filter(pa.array(kept)) for n, kept in apart.items()}}


def late(seen: Seen) -> Seen:
    """The engine was there before its wire was seen: neither requests, events nor messages of the first second."""
    names = ("engine_message", "engine_emission", "engine_event", "engine_request")
    column = {n: "start_ns" if n == "engine_request" else "time_ns" for n in names}
    since = int(seen["engine_message"]["time_ns"].to_numpy().min()) + 1_000_000_000
    return {**seen, **{n: seen[n].filter(pa.array(seen[n][column[n]].to_numpy() >= since)) for n in names}}


def reversed_times(seen: Seen) -> Seen:
    """Executions that end before they begin: a bug of some CUPTI versions, which the collector marks."""
    return _invalid(seen, 11, "reversed")


def without_times(seen: Seen) -> Seen:
    """CUPTI's records without a time: start = end = 0 in its own words, `no_time` in ours."""
    return _invalid(seen, 7, "no_time")


def gpu_clock(ahead_ns: int = 0, drift: float = 0.0) -> Callable[[Seen], Seen]:
    """The GPU's clock is ahead of its node's by so much, and gains on it."""

    def shift(seen: Seen) -> Seen:
        rows = seen["gpu_kernel"]
        for name in ("start_ns", "end_ns"):
            times = rows[name].to_numpy()
            moved = times + ahead_ns + ((times - times.min()) * drift).astype(np.int64)
            rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(moved))
        return {**seen, "gpu_kernel": rows}

    return shift


def stepped_clock(seen: Seen) -> Seen:
    """The node's clock is set a second forward in the middle: all that is stamped by it jumps."""
    middle = int(np.median(seen["gpu_kernel"]["start_ns"].to_numpy()))
    moved = {}
    for table, rows in seen.items():
        for name in (n for n in rows.column_names if n.endswith("_ns") and pa.types.is_int64(rows[n].type)):
            later = pc.add(rows[name], 1_000_000_000)
            after = pc.greater_equal(rows[name], middle)
            rows = rows.set_column(rows.schema.get_field_index(name), name, pc.if_else(after, later, rows[name]))
        moved[table] = rows
    return moved


def wrapped_ids(seen: Seen) -> Seen:
    """CUPTI's correlation ids have 32 bits: they begin anew in the middle."""
    middle = int(np.median(seen["gpu_kernel"]["correlation_id"].to_numpy()))
    moved = dict(seen)
    for table in ("launch", "gpu_kernel"):
        rows, name = seen[table], "correlation_id"
        numbers = (rows[name].to_numpy() + 2**32 - middle) % 2**32
        moved[table] = rows.set_column(rows.schema.get_field_index(name), name, pa.array(numbers))
    return moved


def process_id_taken_again(seen: Seen) -> Seen:
    """Another program gets the engine's process id within the second: its launches have the ids that the engine's have."""
    moved = dict(seen)
    for table in ("launch", "gpu_kernel"):
        rows = seen[table]
        names = {"process_uid": "n/7/another-start", "gpu_uuid": "GPU-of-another"}
        for name in names.keys() & set(rows.column_names):
            words = pa.array([names[name]] * len(rows)).dictionary_encode()
            rows = rows.set_column(rows.schema.get_field_index(name), name, words)
        moved[table] = pa.concat_tables([seen[table], rows], promote_options="permissive").unify_dictionaries()
    return moved


def _invalid(seen: Seen, each: int, why: str) -> Seen:
    rows = seen["gpu_kernel"]
    words = pc.if_else(pa.array(np.arange(len(rows)) % each == 0), why, "ok").dictionary_encode()
    return {**seen, "gpu_kernel": rows.set_column(rows.schema.get_field_index("validity"), "validity", words)}


PREEMPTED = {"rate": 14, "prompt": 250, "output": 400, "kv_tokens": 25_000, "most_requests": 256}
CELLS: dict[str, tuple[dict[str, Any], Callable[[Seen], Seen]]] = {
    "asynchronous": ({}, unchanged),
    "synchronous": ({"asynchronous": False}, unchanged),
    "preempted": (PREEMPTED, unchanged),
    "drafts": ({"drafts": 3, "asynchronous": False}, unchanged),
    "messages lost": ({"lost_ratio": 0.05}, unchanged),
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
    "the GPU's clock 10 ms ahead": ({}, gpu_clock(10_000_000)),
    "the GPU's clock 100 µs behind, and drifting": ({}, gpu_clock(-100_000, 50e-6)),
    "the node's clock set forward": ({}, stepped_clock),
    "correlation ids that begin anew": ({}, wrapped_ids),
    "a process id taken again": ({}, process_id_taken_again),
}


@pytest.mark.parametrize("cell", CELLS)
def test_in_every_cell_sums_hold_and_nothing_wrong_is_called_exact(cell: str, tmp_path: Path) -> None:
    plan, fault = CELLS[cell]
    seen, truth = toy(tmp_path, seconds=2, **plan)
    seen = fault(seen)
    store = Store(Settings(state_dir=str(tmp_path / "state"), correlator_disk_reserve_mb=0))
    store.write([Batch(schema.table(n), r.combine_chunks().to_batches()[0], n) for n, r in seen.items() if len(r)])
    Joins(store.settings, store).catch_up()
    sums = store.query(
        """WITH good AS (SELECT DISTINCT * FROM gpu_kernel WHERE coalesce(validity, 'ok') = 'ok')
        SELECT (SELECT coalesce(sum(share_ns), 0)::BIGINT FROM share) AS shared,
            (SELECT coalesce(sum(end_ns - start_ns), 0)::BIGINT FROM good) AS measured"""
    ).to_pylist()[0]
    members = store.query("SELECT * FROM step_member")
    strangers = store.query(
        r"""SELECT DISTINCT process_uid, owner FROM share
        WHERE owner NOT LIKE '\_\_%' ESCAPE '\' AND process_uid NOT IN (SELECT process_uid FROM engine_message)"""
    )
    store.close()
    assert sums["shared"] == sums["measured"]
    assert strangers.to_pylist() == []  # No request is given time of a process that is not its engine.
    found = score(truth, members, truth_cost(truth, members), by_tokens=True)
    assert found.wrong_exact == 0
    assert found.calibration_error <= 0.05


def test_time_of_steps_whose_messages_were_lost_goes_to_nobody(tmp_path: Path) -> None:
    seen, truth = toy(tmp_path, seconds=4, lost_ratio=0.05)
    store = Store(Settings(state_dir=str(tmp_path / "state"), correlator_disk_reserve_mb=0))
    store.write([Batch(schema.table(n), r.combine_chunks().to_batches()[0], n) for n, r in seen.items() if len(r)])
    Joins(store.settings, store).catch_up()
    rows = store.query("SELECT owner, sum(share_ns)::BIGINT AS ns FROM share GROUP BY owner").to_pylist()
    store.close()
    said = {r["owner"]: r["ns"] for r in rows}
    true: dict[str, float] = {}
    for row in truth["member"].to_pylist():
        true[row["internal_id"]] = true.get(row["internal_id"], 0) + row["cost_ns"]
    wrong = sum(max(ns - true.get(name, 0), 0) for name, ns in said.items() if not name.startswith("__"))
    assert wrong / sum(said.values()) < 0.06
