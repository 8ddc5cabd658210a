"""Requests that passed proxies: one row each, with the client before the first proxy, and how far each is followed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from correlator.storage.store import Store
from tests.correlator.storing import NOON, small
from tests.correlator.test_views import exchange, requests, stored
from warpline import schema
from warpline.batch import Batch

MS = 1_000_000
PORTS = (5000, 8000, 8001, 8002)


def passed(*processes: str, **more: Any) -> list[dict[str, Any]]:
    """The exchanges of one request that goes from the first process to the last, through those between."""
    found = []
    for number, (sender, receiver) in enumerate(itertools.pairwise(processes)):
        own, port = 40_000 + number, PORTS[number + 1]
        for side, process in (("client", sender), ("server", receiver)):
            ends = [("127.0.0.1", own), ("127.0.0.1", port)]
            local, peer = ends if side == "client" else ends[::-1]
            late = (2 * number + (side == "server")) * MS
            place = {"node": "a", "process_uid": process, "connection_id": 2 * number + (side == "server")}
            place |= {"local_address": local[0], "local_port": local[1], "peer_address": peer[0], "peer_port": peer[1]}
            found.append(
                exchange(side, **place, start_ns=NOON + late, end_ns=NOON + 100 * MS - late, retransmits=number, **more)
            )
    return found


@pytest.mark.parametrize("ids", [{}, {"trace_id": None, "response_id": "chatcmpl-1"}])
@pytest.mark.parametrize("proxies", [["envoy"], ["ingress", "sidecar"]])
def test_a_proxys_passage_is_no_request_of_its_own(tmp_path: Path, proxies: list[str], ids: dict[str, Any]) -> None:
    (row,) = requests(stored(tmp_path, *passed("app", *proxies, "api", **ids)))
    assert (row["process_uid"], row["client_process_uid"], row["proxies"]) == ("api", "app", len(proxies))
    assert (row["client_start_ns"], row["client_end_ns"]) == (NOON, NOON + 100 * MS)
    assert row["retransmits"] == len(proxies)


def test_without_the_client_the_proxy_is_the_first_that_is_known(tmp_path: Path) -> None:
    (row,) = requests(stored(tmp_path, *passed("app", "envoy", "api")[1:]))
    assert (row["process_uid"], row["client_process_uid"], row["proxies"]) == ("api", "envoy", 1)


def test_without_the_server_what_the_proxy_sent_stands_for_the_request(tmp_path: Path) -> None:
    (row,) = requests(stored(tmp_path, *passed("app", "envoy", "api")[:3]))
    assert (row["process_uid"], row["side"], row["client_process_uid"]) == ("envoy", "client", "app")


def test_a_server_that_asks_another_for_something_else_is_no_proxy(tmp_path: Path) -> None:
    way = passed("app", "agent", "api")
    for each in way[2:]:
        each["path"] = "/v1/embeddings"
    assert [row["process_uid"] for row in requests(stored(tmp_path, *way))] == ["agent", "api"]


def test_each_of_a_proxys_retries_is_an_attempt_of_the_same_client(tmp_path: Path) -> None:
    first, again = passed("app", "envoy", "api"), passed("app", "envoy", "api")[2:]
    for number, each in enumerate(again):
        each |= {"connection_id": 10 + number, "start_ns": each["start_ns"] + 20 * MS}
        each["local_port" if each["side"] == "client" else "peer_port"] = 50_000
    rows = requests(stored(tmp_path, *first, *again))
    assert [(row["process_uid"], row["client_process_uid"]) for row in rows] == [("api", "app")] * 2


PARTS: list[tuple[str, str, dict[str, Any]]] = [
    ("a proxy's access log", "hop", {"start_ns": NOON, "proxy": "envoy", "request_id": "r-1"}),
    ("the engine's request", "alias", {"kind": "internal_id", "scope": "core", "value": "cmpl-1-0badcafe"}),
    (
        "its engine steps",
        "step_member",
        {"internal_id": "cmpl-1-0badcafe", "step_ordinal": 7, "scheduled_tokens": 1, "level": "plugin"},
    ),
    (
        "CUDA launches of a step",
        "launch",
        {"process_uid": "worker", "correlation_id": 3, "step_ordinal": 7, "api": "x"},
    ),
    ("GPU executions of a step", "gpu_kernel", {"process_uid": "worker", "correlation_id": 3, "kind": "kernel"}),
]
"""Part of the way → table → what its row says."""


def _write(store: Store, table: str, row: dict[str, Any]) -> None:
    common = {"time_ns": NOON, "start_ns": NOON, "end_ns": NOON + MS, "node": "a", "process_uid": "core"}
    known = schema.table(table)
    names = {column.name for column in known.columns}
    values = {name: value for name, value in (common | row).items() if name in names}
    if {"evidence"} <= names:
        values["evidence"] = "exact"
    store.write([Batch(known, known.batch(values, 1), f"a/{table}/{len(str(row))}")])


@pytest.mark.parametrize("count", range(len(PARTS) + 1))
def test_the_first_part_that_is_missing_is_named(tmp_path: Path, count: int) -> None:
    store = stored(tmp_path, *passed("app", "envoy", "api", request_id="r-1", response_id="cmpl-1"))
    _write(store, "process", {"process_uid": "worker", "parent_uid": "core"})
    place = {"attempt_uid": "cmpl-1", "request_uid": "cmpl-1"}
    _write(store, "alias", {"kind": "exchange", "value": "a/3/0/server", **place})
    for _, table, row in PARTS[:count]:
        _write(store, table, row | (place if table == "alias" else {}))
    (found,) = store.view("request_path", {}).read_all().to_pylist()
    assert found["missing"] == (PARTS[count][0] if count < len(PARTS) else None)
    assert (found["client"], found["server"], found["proxies"]) == (True, True, 1)


def test_a_client_that_was_not_watched_is_the_first_thing_missing(tmp_path: Path) -> None:
    (found,) = stored(tmp_path, exchange("server")).view("request_path", {}).read_all().to_pylist()
    assert found["missing"] == "the client's socket"
    store = Store(small(tmp_path / "other"))
    store.write(
        [Batch(schema.table("http_exchange"), schema.table("http_exchange").batch(exchange("client"), 1), "a/1/1")]
    )
    (found,) = store.view("request_path", {}).read_all().to_pylist()
    assert found["missing"] == "the server's socket"
