from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correlator.joins.attribution import ESTIMATED
from correlator.joins.estimate import Stay, estimate
from correlator.joins.membership import from_stays, from_wire
from tests.simulator.score import score, toy, truth_cost
from warpline import schema

MS = 1_000_000
ENGINE = {"node": "n", "process_uid": "p", "engine_index": 0}


def rows_of(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    declared = schema.table(name)
    keys = {key for row in rows for key in row}
    columns = {key: [row.get(key) for row in rows] for key in keys}
    return pa.Table.from_batches(
        [declared.batch({**ENGINE, **columns}, rows=len(rows))] if rows else [], declared.arrow
    )


def ledger(
    sent_ms: list[int],
    emissions: list[tuple[int, str, int]],
    events: list[tuple[int, str, str]],
    prompts: dict[str, int],
    **more: Any,
) -> list[tuple[int, str, int, int, str, str]]:
    resumed, drafts, running = more.pop("resumed", {}), more.pop("drafts", {}), more.pop("running", 1)
    messages = [
        {
            "time_ns": at * MS + 1,
            "engine_time_ns": at * MS,
            "message": i,
            "preempted_requests": resumed.get(i, (0, 0, 0))[0],
            "preempted_queried_tokens": resumed.get(i, (0, 0, 0))[1],
            "preempted_hit_tokens": resumed.get(i, (0, 0, 0))[2],
            "running": running,
            "drafted_requests": drafts.get(i, (None, None))[0],
            "draft_tokens": drafts.get(i, (None, None))[1],
        }
        for i, at in enumerate(sent_ms)
    ]
    first: set[str] = set()
    emitted = []
    for message, name, tokens in emissions:
        row: dict[str, Any] = {"time_ns": 0, "message": message, "internal_id": name, "new_tokens": tokens}
        if name not in first:
            row |= {"prompt_tokens": prompts[name], "computed_tokens": prompts[name]}
        first.add(name)
        emitted.append(row)
    happened = [{"time_ns": at * MS, "internal_id": name, "kind": kind} for at, name, kind in events]
    requests = [{"start_ns": 0, "internal_id": n, "prompt_tokens": p} for n, p in prompts.items()]
    found = from_wire(
        rows_of("engine_message", messages),
        rows_of("engine_emission", emitted),
        rows_of("engine_event", happened),
        rows_of("engine_request", requests),
        **more,
    )
    return [
        (
            r["step_ordinal"],
            r["internal_id"],
            r["scheduled_tokens"],
            r["computed_before_tokens"],
            r["phase"],
            r["evidence"],
        )
        for r in found.to_pylist()
    ]


def test_drafts_that_were_all_refused_are_counted_and_nothing_is_called_exact() -> None:
    told = ([10, 20, 30], [(0, "a", 1), (1, "a", 1), (2, "a", 1)], [(1, "a", "scheduled")], {"a": 100})
    assert ledger(*told, drafts={1: (1, 3), 2: (1, 2)})[1:] == [
        (1, "a", 4, 100, "decode", "derived"),
        (2, "a", 3, 101, "decode", "derived"),
    ]
    assert {row[5] for row in ledger(*told, running=None)[1:]} == {"derived"}  # Without totals nobody tells of drafts.


def test_a_batch_of_one_is_a_prefill_and_a_decode_for_each_further_token() -> None:
    found = ledger([10, 20, 30], [(0, "a", 1), (1, "a", 1), (2, "a", 1)], [(1, "a", "scheduled")], {"a": 100})
    assert found == [
        (0, "a", 100, 0, "prefill", "exact"),
        (1, "a", 1, 100, "decode", "exact"),
        (2, "a", 1, 101, "decode", "exact"),
    ]


def test_a_long_prompt_is_computed_in_chunks_from_what_decodes_leave_of_the_budget() -> None:
    found = ledger(
        [10, 20, 30, 40],
        [(0, "a", 1), (1, "a", 1), (2, "a", 1), (3, "a", 1), (3, "b", 1)],
        [(1, "a", "scheduled"), (11, "b", "scheduled")],
        {"a": 50, "b": 250},
        budget=100,
    )
    assert [r for r in found if r[1] == "b"] == [
        (1, "b", 99, 0, "prefill", "derived"),
        (2, "b", 99, 99, "prefill", "derived"),
        (3, "b", 52, 198, "prefill", "derived"),
    ]


def test_of_two_prompts_the_first_to_come_is_computed_first() -> None:
    found = ledger(
        [10, 20],
        [(0, "a", 1), (1, "a", 1), (1, "b", 1)],
        [(1, "a", "scheduled"), (1, "b", "scheduled")],
        {"a": 80, "b": 60},
        budget=100,
    )
    assert [(r[0], r[1], r[2]) for r in found] == [(0, "a", 80), (0, "b", 20), (1, "a", 1), (1, "b", 40)]


def test_what_one_resumed_request_computes_again_is_known_from_the_cache_counters() -> None:
    found = ledger(
        [10, 20, 30, 40],
        [(0, "a", 1), (1, "a", 1), (3, "a", 1)],
        [(1, "a", "scheduled"), (21, "a", "preempted"), (31, "a", "scheduled")],
        {"a": 100},
        resumed={3: (1, 102, 64)},
    )
    assert found[-1] == (3, "a", 38, 64, "recompute", "derived")


def test_what_several_resumed_requests_compute_again_is_an_estimate() -> None:
    names = ("a", "b")
    found = ledger(
        [10, 20, 30],
        [(i, n, 1) for i in (0, 2) for n in names],
        [e for n in names for e in ((1, n, "scheduled"), (11, n, "preempted"), (21, n, "resumed"))],
        dict.fromkeys(names, 100),
        resumed={2: (2, 202, 102)},
    )
    assert [r[2:] for r in found if r[0] == 2] == [(50, 51, "recompute", "estimated")] * 2


def test_nothing_is_called_exact_across_a_message_that_was_lost() -> None:
    found = ledger(
        [10, 30], [(0, "a", 1), (1, "b", 1)], [(1, "a", "scheduled"), (11, "b", "scheduled")], {"a": 10, "b": 10}
    )
    assert [r[5] for r in found] == ["exact", "exact"]
    messages = rows_of("engine_message", [{"time_ns": 10 * MS, "message": 0}, {"time_ns": 30 * MS, "message": 2}])
    emissions = rows_of(
        "engine_emission",
        [
            {"time_ns": 0, "message": 2 * i, "internal_id": n, "new_tokens": 1, "computed_tokens": 10}
            for i, n in enumerate("ab")
        ],
    )
    events = rows_of(
        "engine_event", [{"time_ns": at * MS, "internal_id": n, "kind": "scheduled"} for at, n in ((1, "a"), (11, "b"))]
    )
    requests = rows_of("engine_request", [{"start_ns": 0, "internal_id": n, "prompt_tokens": 10} for n in "ab"])
    assert from_wire(messages, emissions, events, requests)["evidence"].to_pylist() == ["exact", "derived"]


CASES = {
    "synchronous": ({"asynchronous": False}, 0.9999, 0.002),
    "asynchronous": ({}, 0.995, 0.002),
    "preempting": ({"rate": 14, "prompt": 250, "output": 400, "kv_tokens": 40_000, "most_requests": 256}, 0.995, 0.02),
    "drafting": ({"drafts": 3, "asynchronous": False}, 0.9999, 0.004),
    "losing": ({"lost_ratio": 0.01}, 0.98, 0.006),
}


@pytest.mark.parametrize("case", CASES)
def test_the_wire_recovers_the_ledger_of_an_engine_that_it_knows_nothing_else_of(case: str, tmp_path: Path) -> None:
    plan, recall, misallocated = CASES[case]
    seen, truth = toy(tmp_path, seconds=8, **plan)
    found = from_wire(*(seen[f"engine_{t}"] for t in ("message", "emission", "event", "request")))
    members = pa.Table.from_batches([found])
    same = score(truth, members, truth_cost(truth, members), by_tokens=True)
    assert same.wrong_exact == 0
    assert same.precision == pytest.approx(1.0)
    assert same.recall >= recall
    assert same.misallocated <= misallocated
    assert same.calibration_error <= 0.05


def test_neither_order_nor_duplication_of_wire_rows_changes_the_ledger(tmp_path: Path) -> None:
    seen, _ = toy(tmp_path, seconds=3)
    tables = [seen[f"engine_{t}"] for t in ("message", "emission", "event", "request")]
    shuffle = np.random.default_rng(5)
    turned = [
        pa.concat_tables([t.take(pa.array(shuffle.permutation(len(t)))), t.slice(0, len(t) // 3)]) for t in tables
    ]
    assert from_wire(*turned).equals(from_wire(*tables))


intervals = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 20), st.integers(0, 40), st.integers(1, 500)), min_size=1, max_size=20
)


@settings(max_examples=40, deadline=None)
@given(intervals)
def test_estimated_rows_lie_between_a_requests_first_and_last_step(rows: list[tuple[int, int, int, int]]) -> None:
    start = np.arange(0, 200, dtype=np.int64) * 10
    columns = np.array(rows, np.int64).T
    stay = Stay(
        columns[0] * 10,
        (columns[0] + columns[1]) * 10,
        (columns[0] + columns[1] + columns[2]) * 10,
        columns[3],
        columns[2] + 1,
    )
    found = estimate(stay, start, start + 10, None).members
    assert (found.evidence == ESTIMATED).all()
    low, high = columns[0] - 1, columns[0] + columns[1] + columns[2]
    assert (found.step >= low[found.request]).all()
    assert (found.step <= high[found.request]).all()


def test_totals_of_steps_sharpen_where_prompts_were_computed() -> None:
    steps = rows_of(
        "engine_step",
        [
            {"ordinal": i, "start_ns": i * 10, "end_ns": i * 10 + 9, "context_tokens": t}
            for i, t in enumerate([0, 90, 0, 10])
        ],
    )
    stays = pa.table(
        {
            "internal_id": ["a"],
            "scheduled_ns": [1],
            "first_token_ns": [39],
            "last_token_ns": [39],
            "prompt_tokens": [100],
            "output_tokens": [1],
        }
    )
    known = {r["step_ordinal"]: r["scheduled_tokens"] for r in from_stays(steps, stays, "totals", True).to_pylist()}
    blind = {r["step_ordinal"]: r["scheduled_tokens"] for r in from_stays(steps, stays, "spans", False).to_pylist()}
    assert known == {1: 90, 3: 10}
    assert blind == {0: 25, 1: 25, 2: 25, 3: 25}
