"""The views: every file says what a row is and binds; the spine's views give the rows that they promise."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from correlator.storage import views
from correlator.storage.store import Store
from correlator.storage.views import View
from tests.correlator.storing import NOON, small, syscalls
from warpline import schema
from warpline.batch import Batch
from warpline.errors import SchemaError, StoreError

EXCHANGE = schema.table("http_exchange")
CONNECTION = schema.table("connection")
MS = 1_000_000


def exchange(side: str, **more: Any) -> dict[str, Any]:
    """One side of a request on a connection between 10.0.0.1:5000 (client) and 10.0.0.2:80 (server)."""
    ends = [("10.0.0.1", 5000), ("10.0.0.2", 80)]
    local, peer = ends if side == "client" else ends[::-1]
    late = 0 if side == "client" else MS
    row = {
        "start_ns": NOON + late, "end_ns": NOON + 100 * MS - late, "node": f"{side}-node", "process_uid": f"{side}:1",
        "side": side, "connection_id": 1 if side == "client" else 2, "ordinal": 0, "protocol": "http/1.1",
        "local_address": local[0], "local_port": local[1], "peer_address": peer[0], "peer_port": peer[1],
        "method": "POST", "path": "/v1/completions", "status": 200, "trace_id": b"\x01" * 16,
        "request_end_ns": NOON + 2 * MS, "response_start_ns": NOON + 9 * MS, "first_body_ns": NOON + 10 * MS,
        "last_chunk_ns": NOON + 98 * MS, "chunks": 7, "response_bytes": 700, "retransmits": 1, "ended_by": "complete",
    }  # fmt: skip
    return row | more


def stored(tmp_path: Path, *exchanges: dict[str, Any]) -> Store:
    store = Store(small(tmp_path))
    rows = [Batch(EXCHANGE, EXCHANGE.batch(row, 1), f"a/1/{n}") for n, row in enumerate(exchanges)]
    store.write(rows)
    return store


def requests(store: Store, **parameters: Any) -> list[dict[str, Any]]:
    return list(store.view("request", {"order": "start_ns", **parameters}).read_all().to_pylist())


def test_every_view_binds_and_says_what_a_row_is(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    described = store.views()
    assert store.catalogue.broken == {} and len(described) == len(views.load())
    for view in described:
        assert view["doc"] and view["columns"], view["name"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1", "no comment"),
        ("-- A row.\nSELECT $x", "make them agree"),
        ("-- A row.\n-- parameters: x\nSELECT 1", "make them agree"),
    ],
)
def test_a_view_file_of_another_form_is_refused_with_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(SchemaError, match=complaint):
        views._parse("odd.sql", text)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "missing parameters"),
        ({"a": "1", "b": "2"}, "unknown parameters"),
        ({"a": "1", "limit": "many"}, "limit is 'many'"),
        ({"a": "1", "since_ns": "yesterday"}, "since_ns is 'yesterday'"),
        ({"a": "1", "order": "x; DROP TABLE request"}, "order is"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_with_a_sentence(given: dict[str, str], complaint: str) -> None:
    view = View("v", "A row.", ("a",), "SELECT $a AS start_ns")
    with pytest.raises(StoreError, match=complaint):
        views.bind(view, given, ["start_ns"])


def test_a_view_is_shaped_by_window_order_and_limit(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([syscalls("a/1/1", range(100))])
    window = {"since_ns": str(NOON + 10 * MS), "until_ns": str(NOON + 20 * MS), "order": "-start_ns", "limit": "3"}
    assert store.view("syscall", window).read_all()["result"].to_pylist() == [19, 18, 17]


def test_both_sides_of_a_request_are_one_row(tmp_path: Path) -> None:
    store = stored(tmp_path, exchange("client"), exchange("server"))
    (row,) = requests(store)
    assert row["side"] == "server" and row["client_node"] == "client-node" and row["evidence"] == "exact"
    assert row["trace_id"] == "01" * 16 and row["status"] == 200 and row["chunks"] == 7 and row["retransmits"] == 2
    assert row["ttft_ns"] == 9 * MS and row["client_ttft_ns"] == 10 * MS and row["duration_ns"] == 98 * MS


def test_streams_of_one_connection_are_a_request_each(tmp_path: Path) -> None:
    call = {"protocol": "grpc", "trace_id": None, "grpc_status": 0}
    rows = [
        exchange(side, **call, ordinal=n, end_ns=NOON + (9 - n) * MS)
        for n in (1, 3, 5)
        for side in ("client", "server")
    ]
    # The server's side was joined in the middle, so that only the client's has the head.
    rows[4] |= {"trace_id": b"\x07" * 16, "grpc_status": 14}
    rows[5] |= {"parse": "partial", "path": None, "grpc_status": 14}
    store = stored(tmp_path, *rows)
    found = sorted(requests(store), key=lambda row: row["ordinal"])
    assert [(row["ordinal"], row["client_ordinal"], row["side"], row["evidence"]) for row in found] == [
        (1, 1, "server", "exact"),
        (3, 3, "server", "exact"),
        (5, 5, "server", "derived"),
    ]
    (summary,) = store.view("request_summary", {"since_ns": "0", "until_ns": str(2 * NOON)}).read_all().to_pylist()
    assert (summary["requests"], summary["failed"]) == (3, 1)


def test_a_client_whose_server_was_not_seen_is_a_request_of_its_own(tmp_path: Path) -> None:
    (row,) = requests(stored(tmp_path, exchange("client")))
    assert row["side"] == "client" and row["client_start_ns"] == row["start_ns"] and row["retransmits"] == 1


@pytest.mark.parametrize(
    "other",
    [
        {"trace_id": b"\x02" * 16},
        {"ordinal": 1},
        {"peer_port": 5001},
        {"start_ns": NOON + 40_000 * MS, "end_ns": NOON + 41_000 * MS},
    ],
)
def test_sides_that_contradict_each_other_stay_two_requests(tmp_path: Path, other: dict[str, Any]) -> None:
    found = requests(stored(tmp_path, exchange("client"), exchange("server", **other)))
    assert sorted(row["side"] for row in found) == ["client", "server"]


def test_sides_of_two_nodes_without_an_id_are_not_called_exact(tmp_path: Path) -> None:
    none = {"trace_id": None, "request_id": None}
    (row,) = requests(stored(tmp_path, exchange("client", **none), exchange("server", **none)))
    assert row["evidence"] == "derived"


def test_many_requests_on_one_connection_keep_their_own_sides(tmp_path: Path) -> None:
    def later(side: str, number: int) -> dict[str, Any]:
        row = exchange(side, ordinal=number, trace_id=None, path=f"/{number}", node="same")
        return row | {"start_ns": row["start_ns"] + number * 200 * MS, "end_ns": row["end_ns"] + number * 200 * MS}

    found = requests(stored(tmp_path, *(later(side, n) for n in range(5) for side in ("client", "server"))))
    assert [row["path"] for row in found] == [f"/{n}" for n in range(5)]
    assert all(row["start_ns"] - row["client_start_ns"] == MS and row["evidence"] == "exact" for row in found)


def test_a_request_that_is_still_open_is_replaced_by_its_end(tmp_path: Path) -> None:
    half = {"end_ns": None, "last_chunk_ns": None, "ended_by": "open"}
    store = stored(tmp_path, exchange("server", **half))
    assert [row["open"] for row in requests(store)] == [True]
    store.write([Batch(EXCHANGE, EXCHANGE.batch(exchange("server"), 1), "a/2/1")])
    assert [row["open"] for row in requests(store)] == [False]


def test_a_timeline_shows_client_server_phases_and_connection(tmp_path: Path) -> None:
    store = stored(tmp_path, exchange("client"), exchange("server"))
    row = {
        "start_ns": NOON - MS,
        "node": "server-node",
        "connection_id": 2,
        "role": "server",
        "local_address": "10.0.0.2",
    }
    store.write([Batch(CONNECTION, CONNECTION.batch(row, 1), "c/1/1")])
    (request,) = requests(store)
    bars = store.view("request_timeline", {"request_uid": request["request_uid"]}).read_all().to_pylist()
    assert [(bar["group"], bar["name"], bar["depth"]) for bar in bars] == [
        ("client", "POST /v1/completions", 0),
        ("network", "connection to :", 0),
        ("server", "POST /v1/completions", 0),
        ("server", "receiving", 1),
        ("server", "waiting for first byte", 1),
        ("server", "streaming", 1),
    ]
    phases = [bar for bar in bars if bar["depth"] == 1]
    assert all(a["end_ns"] == b["start_ns"] for a, b in itertools.pairwise(phases))
    assert all(bar["end_ns"] >= bar["start_ns"] and bar["evidence"] == "exact" for bar in bars)


def test_losses_are_summed_by_source_and_reason(tmp_path: Path) -> None:
    loss, state = schema.table("loss"), schema.table("source_state")
    rows = {
        "start_ns": [NOON, NOON + 1, NOON + 2],
        "node": "n",
        "source": "tcp",
        "reason": ["a", "a", "b"],
        "lost": [2, 3, 4],
    }
    store = Store(small(tmp_path))
    store.write([Batch(loss, loss.batch(rows | {"lower_bound": [True, False, False]}), "l/1/1")])
    states = {"time_ns": [NOON, NOON + 1], "node": "n", "source": "tcp", "up": [True, False], "reason": [None, "gone"]}
    store.write([Batch(state, state.batch(states), "l/1/2")])
    totals = store.view("loss_total", {"order": "reason"}).read_all().select(["reason", "lost", "lower_bound"])
    assert [tuple(row.values()) for row in totals.to_pylist()] == [("a", 5, True), ("b", 4, False)]
    (source,) = store.view("source").read_all().to_pylist()
    assert (source["up"], source["reason"], source["lost"]) == (False, "gone", 9)
