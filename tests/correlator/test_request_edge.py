"""Edges of one request that a view finds: flows, processes and hooks by connection, and the errors of clocks across."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.correlator.storing import NOON, small
from tests.correlator.test_views import MS, exchange
from warpline import schema
from warpline.batch import Batch

REQUEST_ID = "0f8a6f2e-1b2c-4d3e-8f90-123456789abc"
BY_ENVOY = "0f8a6f2e-1b2c-9d3e-8f90-123456789abc"
FLOW = {"verdict": "FORWARDED", "observation_point": "TO_ENDPOINT", "counted": True, "node": "server-node"}
TO_SERVER = ("source", "destination")
TO_CLIENT = TO_SERVER[::-1]


def write(store: Store, table: str, *rows: dict[str, Any]) -> None:
    known = schema.table(table)
    store.write([Batch(known, known.batch(row, 1), f"{table}/{n}") for n, row in enumerate(rows)])


def flow(ways: tuple[str, str], **more: Any) -> dict[str, Any]:
    ends = {
        f"{ways[0]}_address": "10.0.0.1",
        f"{ways[0]}_port": 5000,
        f"{ways[1]}_address": "10.0.0.2",
        f"{ways[1]}_port": 80,
    }
    return FLOW | {"time_ns": NOON + 5 * MS} | ends | more


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(small(tmp_path))
    sides = [exchange(side, request_id=REQUEST_ID, response_id="cmpl-1") for side in ("client", "server")]
    write(made, "http_exchange", *sides)
    yield made
    made.close()


def edges(store: Store, to_kind: str) -> list[tuple[Any, ...]]:
    Joins(store.settings, store).catch_up()
    rows = store.view("request_edge", {"request": "cmpl-1"}).read_all().to_pylist()
    columns = ("from_id", "to_id", "relation", "evidence", "rule", "alternatives")
    return sorted(tuple(row[c] for c in columns) for row in rows if row["to_kind"] == to_kind)


def test_flows_of_the_connection_are_the_requests_both_ways_and_drops_are_said(store: Store) -> None:
    write(
        store,
        "flow",
        flow(TO_SERVER),
        flow(TO_CLIENT),
        flow(TO_SERVER, verdict="DROPPED", drop_reason="POLICY_DENIED"),
        flow(TO_SERVER, source_port=5001),
        flow(TO_SERVER, time_ns=NOON + 5_000 * MS),
        flow(TO_SERVER, counted=False),
    )
    found = [e for e in edges(store, "flow") if e[0] == "server-node/2/0/server"]
    rest = ("derived", "addresses_and_time", 0)
    assert found == [
        ("server-node/2/0/server", "1 flow DROPPED POLICY_DENIED at TO_ENDPOINT on server-node", "dropped", *rest),
        ("server-node/2/0/server", "2 flows FORWARDED at TO_ENDPOINT on server-node", "crossed", *rest),
    ]


def test_a_flow_that_could_be_another_exchanges_says_so(store: Store) -> None:
    write(store, "flow", flow(TO_SERVER))
    other = exchange("server", ordinal=1, response_id="cmpl-2", trace_id=b"\x02" * 16)
    known = schema.table("http_exchange")
    store.write([Batch(known, known.batch(other, 1), "another")])
    assert {(e[0], e[-1]) for e in edges(store, "flow")} == {
        ("client-node/1/0/client", 0),
        ("server-node/2/0/server", 1),
    }


def test_envoys_digit_of_a_request_id_is_no_difference(store: Store) -> None:
    write(
        store,
        "flow",
        flow(TO_SERVER, layer="L7", request_id=BY_ENVOY),
        flow(TO_SERVER, source_address="10.9.9.9", request_id=BY_ENVOY),
        flow(TO_SERVER, source_address="10.9.9.9", request_id=BY_ENVOY.replace("abc", "abd")),
    )
    found = edges(store, "flow")
    assert {(e[3], e[4]) for e in found if e[0].startswith("server-node")} == {("exact", "request_id_and_address")}
    assert [e[1:] for e in found if e[0] == "cmpl-1"] == [
        ("1 flow FORWARDED at TO_ENDPOINT on server-node", "crossed", "derived", "request_id", 0)
    ]


def test_hooks_on_the_connections_socket_and_its_process_belong_to_the_request(store: Store) -> None:
    sock = '{"args": [{"int_arg": 1}, {"sock_arg": {"saddr": "10.0.0.2", "sport": 80, "daddr": "10.0.0.1", "dport": 5000}}]}'
    hook = {"time_ns": NOON + 5 * MS, "node": "server-node", "process_uid": "server:1", "kind": "kprobe"}
    hook |= {"name": "tcp_sendmsg", "action": "post", "details": sock}
    write(store, "process_event", hook, hook | {"details": sock.replace("5000", "5001")}, hook | {"node": "third"})
    assert edges(store, "process_event") == [
        (
            "server-node/2/0/server",
            "1 tcp_sendmsg post of server:1",
            "touched_by",
            "derived",
            "addresses_and_time",
            0,
        )
    ]
    assert edges(store, "process") == [
        ("client-node/1/0/client", "client:1", "run_by", "exact", "process_uid", 0),
        ("server-node/2/0/server", "server:1", "run_by", "exact", "process_uid", 0),
    ]


def bounds(store: Store, relation: str) -> list[tuple[Any, Any]]:
    rows = store.view("request_edge", {"request": "cmpl-1"}).read_all().to_pylist()
    return [(row["error_low_ns"], row["error_high_ns"]) for row in rows if row["relation"] == relation]


@pytest.mark.parametrize(("nodes", "expected"), [(1, (900, 1200)), (-1, (-1200, -900))])
def test_an_edge_between_nodes_has_the_bounds_of_their_clocks(store: Store, nodes: int, expected: Any) -> None:
    Joins(store.settings, store).catch_up()
    assert bounds(store, "received_as") == [(None, None)]
    names = ["client-node", "server-node"][::nodes]
    row = {"time_ns": NOON, "node": names[0], "other_node": names[1], "low_ns": 900, "high_ns": 1200, "status": "ok"}
    known = schema.table("clock_edge")
    later = row | {"time_ns": NOON + 10_000 * MS, "low_ns": 5, "high_ns": 6}
    wrong = row | {"low_ns": 7, "high_ns": 1, "status": "infeasible"}
    for number, each in enumerate((row, later, wrong)):
        store.write([Batch(known, known.batch(each, 1), f"clock/{number}")])
    assert bounds(store, "received_as") == [expected]


def test_bounds_of_another_moment_are_wider_by_the_drift_that_is_granted(store: Store) -> None:
    Joins(store.settings, store).catch_up()
    row = {"time_ns": NOON - 4_000 * MS, "node": "client-node", "other_node": "server-node", "status": "ok"}
    write(store, "clock_edge", row | {"low_ns": 900, "high_ns": 1200})
    assert bounds(store, "received_as") == [(900 - 200_000, 1200 + 200_000)]


def gpu_rows(store: Store, *calls: tuple[str, int, int, int, int]) -> None:
    """Rows of calls (api, from, to) and their executions (from, to), in µs, in step 7 of the request."""
    alias = {"time_ns": NOON, "kind": "internal_id", "scope": "core", "value": "cmpl-1-0badcafe", "evidence": "exact"}
    write(store, "alias", alias | {"attempt_uid": "cmpl-1", "request_uid": "cmpl-1"})
    member = {
        "internal_id": "cmpl-1-0badcafe",
        "step_ordinal": 7,
        "scheduled_tokens": 1,
        "level": "plugin",
        "node": "server-node",
    }
    write(store, "step_member", member | {"time_ns": NOON, "process_uid": "core", "evidence": "exact"})
    for number, (api, call, back, start, end) in enumerate(calls):
        copy = "emcpy" in api
        each = {"node": "server-node", "process_uid": "core", "session": 0, "correlation_id": number, "step_ordinal": 7}
        at = {"start_ns": NOON + call * 1000, "end_ns": NOON + back * 1000}
        known = schema.table("launch")
        store.write([Batch(known, known.batch(each | at | {"api": api}, 1), f"launch/{number}")])
        at = {"start_ns": NOON + start * 1000, "end_ns": NOON + end * 1000}
        known = schema.table("gpu_kernel")
        what = {"kind": "memcpy" if copy else "kernel", "gpu_uuid": "GPU-1", "name": "Memcpy DtoH" if copy else "gemm"}
        store.write([Batch(known, known.batch(each | at | what, 1), f"kernel/{number}")])


def test_launches_and_waits_bound_what_the_gpus_clock_is_ahead(store: Store) -> None:
    launch, fast = ("cudaLaunchKernel", 0, 5, 60, 90), ("cudaLaunchKernel", 100, 105, 112, 150)
    gpu_rows(store, launch, fast, ("cudaMemcpy", 200, 300, 250, 296), ("cudaMemcpyAsync", 400, 402, 440, 470))
    assert bounds(store, "executed_as") == [(-4000, 12_000)]


def test_without_a_call_that_waits_the_gpus_clock_has_no_lower_bound(store: Store) -> None:
    gpu_rows(store, ("cudaLaunchKernel", 0, 5, 60, 90))
    assert bounds(store, "executed_as") == [(None, 60_000)]
