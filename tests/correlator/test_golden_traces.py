"""Six small traces, worked out by hand: who was in each step, what each got of its GPU time to the ns, and every edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from correlator.joins.stages import Joins
from correlator.storage.store import Store
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

MS, BASE = 1_000_000, 1_700_000_000_000_000_000
Rows = list[dict[str, Any]]
Found = dict[str, list[tuple[Any, ...]]]


class Trace:
    """One engine's wire and executions; step i runs in [10 i, 10 i + 8] ms, its message comes at 10 i + 9 ms."""

    def __init__(self, process: str = "e", begin_ms: int = 0) -> None:
        self.engine = {"node": "n", "process_uid": process, "engine_index": 0}
        self.begin = BASE + begin_ms * MS
        self.rows: dict[str, Rows] = {}

    def add(self, table: str, **row: Any) -> Trace:
        self.rows.setdefault(table, []).append({"node": "n", **row})
        return self

    def request(self, name: str, prompt: int, **more: Any) -> Trace:
        told = {
            "start_ns": self.begin,
            "internal_id": name,
            "external_id": name.rpartition("-")[0],
            "prompt_tokens": prompt,
        }
        return self.add("engine_request", **self.engine, **told, **more)

    def event(self, at_ms: int, name: str, kind: str = "scheduled") -> Trace:
        return self.add("engine_event", **self.engine, time_ns=self.begin + at_ms * MS, internal_id=name, kind=kind)

    def step(
        self, number: int, times: dict[str, int], out: dict[str, tuple[int, ...]], resumed: tuple[int, ...] = ()
    ) -> Trace:
        """Add a step: ns by class, and (new tokens[, prompt, computed]) by request."""
        begin = self.begin + number * 10 * MS
        sent = begin + 9 * MS
        told = dict(
            zip(("preempted_requests", "preempted_queried_tokens", "preempted_hit_tokens"), resumed, strict=False)
        )
        self.add(
            "engine_message",
            **self.engine,
            time_ns=sent,
            engine_time_ns=sent,
            message=number,
            running=9,
            waiting=0,
            **told,
        )
        for name, (tokens, *prompt) in out.items():
            known = dict(zip(("prompt_tokens", "computed_tokens"), prompt, strict=False))
            self.add(
                "engine_emission",
                **self.engine,
                time_ns=sent,
                message=number,
                internal_id=name,
                new_tokens=tokens,
                **known,
            )
        at = begin
        for place, (kind, ns) in enumerate({**times, "memory": 1000}.items()):
            same = {"process_uid": self.engine["process_uid"], "session": 0, "correlation_id": number * 8 + place}
            self.add("launch", **same, start_ns=begin - MS, end_ns=begin - MS + 500, api="cudaLaunchKernel")
            what = "memcpy" if kind == "memory" else "kernel"
            self.add("gpu_kernel", **same, start_ns=at, end_ns=at + ns, kernel_class=kind, kind=what, gpu_uuid="G")
            at += ns
        return self


@pytest.fixture
def joined(tmp_path: Path) -> Any:
    def join(*traces: Trace, budget: int = 0) -> Found:
        settings = Settings(state_dir=str(tmp_path), correlator_disk_reserve_mb=0, correlator_token_budget=budget)
        store = Store(settings)
        try:
            for number, trace in enumerate(traces):
                for name, rows in trace.rows.items():
                    keys = {key for row in rows for key in row}
                    columns = {key: [row.get(key) for row in rows] for key in keys}
                    batch = schema.table(name).batch(columns, len(rows))
                    store.write([Batch(schema.table(name), batch, f"{name}/{number}")])
            Joins(settings, store).rebuild()
            return {name: _rows(store, sql) for name, sql in SQL.items()}
        finally:
            store.close()

    return join


SQL = {
    "member": "SELECT step_ordinal, internal_id, scheduled_tokens, computed_before_tokens, phase, evidence FROM step_member",
    "share": "SELECT step_ordinal, kernel_class, owner, share_ns::BIGINT FROM share WHERE share_ns > 0",
    "edge": "SELECT relation, from_id, to_id, evidence FROM edge",
    "alias": "SELECT DISTINCT value, request_uid FROM alias WHERE kind = 'internal_id'",
}


def _rows(store: Store, sql: str) -> list[tuple[Any, ...]]:
    table: pa.Table = store.query(sql + " ORDER BY ALL")
    return [tuple(row.values()) for row in table.to_pylist()]


def test_a_batch_of_one_has_all_of_every_step(joined: Any) -> None:
    trace = Trace().request("cmpl-a-01", 100).event(-5, "cmpl-a-01")
    trace.step(0, {"gemm": 5000, "attention": 700, "sampling": 90}, {"cmpl-a-01": (1, 100, 100)})
    trace.step(1, {"gemm": 3000, "attention": 400, "sampling": 90}, {"cmpl-a-01": (1,)})
    found = joined(trace)
    assert found["member"] == [
        (0, "cmpl-a-01", 100, 0, "prefill", "exact"),
        (1, "cmpl-a-01", 1, 100, "decode", "exact"),
    ]
    assert found["share"] == [
        (0, "attention", "cmpl-a-01", 700),
        (0, "dense", "cmpl-a-01", 6000),  # 5000 of the matrix products, and 1000 of the copy.
        (0, "sampling", "cmpl-a-01", 90),
        (1, "attention", "cmpl-a-01", 400),
        (1, "dense", "cmpl-a-01", 4000),
        (1, "sampling", "cmpl-a-01", 90),
    ]


def test_three_in_a_batch_one_of_them_computing_its_prompt_in_chunks(joined: Any) -> None:
    a, b, c = "cmpl-a-01", "cmpl-b-02", "cmpl-c-03"
    trace = Trace().request(a, 10).request(b, 20).request(c, 150)
    trace.event(-5, a).event(-5, b).event(9, c)
    trace.step(0, {"gemm": 1000}, {a: (1, 10, 10), b: (1, 20, 20)})
    # Of 100 tokens a and b take one each. Weights of attention: 80 × 11, 80 × 21, 98 × 99.
    trace.step(1, {"gemm": 99_000, "attention": 12_262, "sampling": 70}, {a: (1,), b: (1,)})
    # 52 tokens of c are left, on 98: 52 × (2 × 98 + 53) = 12,948 is more than 80 × 150; a and b read 80 × 12 and 80 × 22.
    trace.step(2, {"gemm": 53_000, "attention": 15_668, "sampling": 90}, {a: (1,), b: (1,), c: (1, 150, 150)})
    found = joined(trace, budget=100)
    assert [row[:5] for row in found["member"] if row[0]] == [
        (1, a, 1, 10, "decode"),
        (1, b, 1, 20, "decode"),
        (1, c, 98, 0, "prefill"),
        (2, a, 1, 11, "decode"),
        (2, b, 1, 21, "decode"),
        (2, c, 52, 98, "prefill"),
    ]
    share = {row[:3]: row[3] for row in found["share"]}
    assert [share[1, "dense", who] for who in (a, b, c)] == [1000, 1000, 98_000]
    assert [share[1, "attention", who] for who in (a, b, c)] == [880, 1680, 9702]
    assert [share[1, "sampling", who] for who in (a, b)] == [35, 35] and (1, "sampling", c) not in share
    assert [share[2, "dense", who] for who in (a, b, c)] == [1000, 1000, 52_000]
    assert [share[2, "attention", who] for who in (a, b, c)] == [960, 1760, 12_948]
    assert [share[2, "sampling", who] for who in (a, b, c)] == [30, 30, 30]


def test_what_a_preempted_request_computes_again_is_told_apart(joined: Any) -> None:
    a, b = "cmpl-a-01", "cmpl-b-02"
    trace = Trace().request(a, 50).request(b, 30).event(-5, a).event(-5, b)
    trace.step(0, {"gemm": 8000}, {a: (1, 50, 50), b: (1, 30, 30)})
    trace.step(1, {"gemm": 1000}, {a: (1,), b: (1,)})
    trace.event(19, b, "preempted").event(29, b, "resumed")
    trace.step(2, {"gemm": 1000}, {a: (1,)})
    # b is back with 32 tokens, of which the cache still has 16: 16 are computed again, beside one of a.
    trace.step(3, {"gemm": 16_000}, {a: (1,), b: (1,)}, resumed=(1, 32, 16))
    found = joined(trace)
    assert found["member"][-1] == (3, b, 16, 16, "recompute", "derived")
    share = {row[:3]: row[3] for row in found["share"]}
    assert (2, "dense", b) not in share
    assert [share[3, "dense", who] for who in (a, b)] == [1000, 16_000]


def test_drafts_that_were_not_accepted_cost_what_the_accepted_do(joined: Any) -> None:
    a, b = "cmpl-a-01", "cmpl-b-02"
    trace = Trace().request(a, 40).request(b, 40).event(-5, a).event(-5, b)
    trace.step(0, {"gemm": 9000}, {a: (1, 40, 40), b: (1, 40, 40)})
    trace.step(
        1, {"gemm": 7000, "sampling": 500}, {a: (4,), b: (1,)}
    )  # Three drafts each: all accepted, none accepted.
    found = joined(trace)
    assert found["member"][2:] == [
        (1, a, 4, 40, "decode", "derived"),
        (1, b, 4, 40, "decode", "derived"),
    ]
    share = {row[:3]: row[3] for row in found["share"]}
    assert [share[1, "dense", who] for who in (a, b)] == [4000, 4000]
    assert [share[1, "sampling", who] for who in (a, b)] == [400, 100]


def test_a_prefill_and_its_decode_are_one_request_on_two_gpus(joined: Any) -> None:
    far, near = "cmpl-x-0a", "cmpl-x-0b"
    prefill = Trace("p").request(far, 100, role="prefill").event(-5, far)
    prefill.step(0, {"gemm": 90_000}, {far: (1, 100, 100)})
    decode = Trace("d", 100).request(near, 100, role="decode", remote_request_id=far).event(-5, near)
    decode.step(0, {"gemm": 2000}, {near: (1, 100, 1)})
    decode.step(1, {"gemm": 3000}, {near: (1,)})
    found = joined(prefill, decode)
    assert found["edge"] == [
        ("prefilled_by", f"d/{near}", f"p/{far}", "exact"),
        ("served_by", "cmpl-x", f"d/{near}", "exact"),
        ("served_by", "cmpl-x", f"p/{far}", "exact"),
    ]
    assert len({request for _, request in found["alias"]}) == 1
    assert [(row[0], *row[2:]) for row in found["share"]] == [(0, far, 91_000), (0, near, 3000), (1, near, 4000)]


def test_a_retry_through_envoy_counts_for_the_request_that_was_retried(joined: Any) -> None:
    first, second = "cmpl-u-0a", "cmpl-v-0b"
    trace = Trace().request(first, 10, finish_reason="abort", end_ns=BASE + 15 * MS).request(second, 10)
    trace.event(-5, first).event(15, second)
    trace.step(0, {"gemm": 5000}, {first: (1, 10, 10)}).step(1, {"gemm": 9000}, {})
    trace.step(2, {"gemm": 6000}, {second: (1, 10, 10)})
    name = "5b2f0e9c-1a2b-{}cde-8f01-23456789abcd"

    def exchange(number: int, side: str, port: int, at_ms: int, lasts_ms: int, digit: int, **more: Any) -> None:
        local, peer = (40_000 + port, 8000) if side == "client" else (8000, 40_000 + port)
        here, there = ("10.0.0.1", "10.0.0.9") if side == "client" else ("10.0.0.9", "10.0.0.1")
        of = {"local_address": here, "peer_address": there, "local_port": local, "peer_port": peer}
        when = {"start_ns": BASE + at_ms * MS, "end_ns": BASE + (at_ms + lasts_ms) * MS}
        told = {"request_id": name.format(digit), "connection_id": number, "ordinal": 0, "request_offset_bytes": 0}
        trace.add("http_exchange", side=side, **{**of, **when, **told, **more})

    door = {"local_address": "10.0.0.1", "peer_address": "10.0.0.3"}
    exchange(1, "server", 1, -10, 60, 4, process_uid="envoy", status=200, response_id="cmpl-v", **door)
    exchange(2, "client", 2, -9, 24, 9, process_uid="envoy", status=503, response_id="cmpl-u")
    exchange(3, "server", 2, -8, 22, 9, process_uid="api", status=503, response_id="cmpl-u")
    exchange(4, "client", 3, 14, 32, 9, process_uid="envoy", status=200, response_id="cmpl-v")
    exchange(5, "server", 3, 14, 32, 9, process_uid="api", status=200, response_id="cmpl-v")
    found = joined(trace)
    assert len({request for _, request in found["alias"]}) == 1
    assert [edge[3] for edge in found["edge"] if edge[0] == "retried"] == ["exact"]
    assert {edge[0] for edge in found["edge"]} >= {"received_as", "served_by", "retried"}
    assert all(edge[3] == "exact" for edge in found["edge"] if edge[0] == "served_by")
    owners = {(row[0], row[2]): row[3] for row in found["share"]}
    assert owners[0, first] == 6000 and owners[2, second] == 7000
    assert owners[1, "__unattributed__"] == 10_000  # Nobody was told to have been in it.
