"""Identity: which exchanges and engine requests are one attempt, which attempts one request, and how each edge is known."""

from __future__ import annotations

import json

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from correlator.joins.identity import identify
from tests.correlator.identified import MS, attempts, edges, engine_request, exchange, joined, requests, table


def test_a_request_is_followed_from_the_clients_socket_into_the_engine() -> None:
    found = joined(
        [exchange("client", 1, 0, "app"), exchange("server", 7, 1, "api", response_id="chatcmpl-abc")],
        [engine_request("chatcmpl-abc-0badcafe", 2, external_id="chatcmpl-abc")],
    )
    assert set(attempts(found, "exchange").values()) == {"chatcmpl-abc"}
    assert attempts(found, "internal_id") == {"chatcmpl-abc-0badcafe": "chatcmpl-abc"}
    assert edges(found, "received_as") == [("a/1/0/client", "b/7/0/server", "derived", "addresses_and_offset")]
    assert edges(found, "served_by") == [("chatcmpl-abc", "engine/chatcmpl-abc-0badcafe", "exact", "response_id")]
    assert found.finding.num_rows == 0


def test_sequence_numbers_pair_the_two_ends_of_a_connection_whatever_addresses_they_see() -> None:
    ends = [exchange("client", 1, 0, "app"), exchange("server", 7, 1, "api", peer_address="192.168.0.1", peer_port=5)]
    connections = [
        {"start_ns": 0, "node": "a", "connection_id": 1, "isn_sent": 11, "isn_received": 99},
        {"start_ns": 0, "node": "b", "connection_id": 7, "isn_sent": 99, "isn_received": 11},
    ]
    assert edges(joined(ends, []), "received_as") == []
    assert edges(joined(ends, [], connections), "received_as") == [
        ("a/1/0/client", "b/7/0/server", "exact", "sequence_numbers")
    ]


def test_requests_on_one_kept_connection_stay_apart() -> None:
    rows = []
    for i in range(3):
        rows.append(exchange("client", 1, 100 * i, "app", ordinal=i, request_offset_bytes=500 * i))
        rows.append(
            exchange("server", 7, 100 * i, "api", ordinal=i, request_offset_bytes=500 * i, response_id=f"cmpl-{i}")
        )
    assert len(set(attempts(joined(rows, []), "exchange").values())) == 3


def test_a_port_used_again_later_pairs_each_connection_with_its_own_other_end() -> None:
    rows = [exchange(s, c, at, p) for c, at in ((1, 0), (2, 60_000)) for s, p in (("client", "app"), ("server", "api"))]
    assert sorted(e[:2] for e in edges(joined(rows, []), "received_as")) == [
        ("a/1/0/client", "b/1/0/server"),
        ("a/2/0/client", "b/2/0/server"),
    ]


def test_samples_and_prompts_of_one_call_are_children_of_one_attempt() -> None:
    found = joined(
        [exchange("server", 7, 1, "api", response_id="cmpl-abc")],
        [
            engine_request(f"{n}_cmpl-abc-{prompt}-0badcaf{prompt}", 2, external_id=f"cmpl-abc-{prompt}")
            for n in range(2)
            for prompt in range(3)
        ],
    )
    assert set(attempts(found, "internal_id").values()) == {"cmpl-abc"}
    assert found.finding.num_rows == 0


def test_a_request_id_that_a_client_repeats_at_a_time_is_refused_and_reported() -> None:
    found = joined(
        [
            exchange("server", 7, 0, "api", port=1, response_id="chatcmpl-same", request_id="same"),
            exchange("server", 8, 10, "api", port=2, response_id="chatcmpl-same", request_id="same"),
        ],
        [
            engine_request("chatcmpl-same-00000001", 1, external_id="chatcmpl-same"),
            engine_request("chatcmpl-same-00000002", 11, external_id="chatcmpl-same"),
        ],
    )
    attempt = attempts(found, "internal_id")
    first, second = attempts(found, "exchange").values()
    assert first != second
    assert attempt["chatcmpl-same-00000001"] == attempts(found, "exchange")["b/7/0/server"]
    # The second began while both exchanges were open: which of them it serves cannot be known from its id.
    assert attempt["chatcmpl-same-00000002"] not in (first, second)
    assert [r["evidence"] for r in found.edge.to_pylist() if r["to_id"].endswith("00000001")] == ["derived"]
    kinds = {json.loads(r["details"])["kind"] for r in found.finding.to_pylist()}
    assert kinds == {"response_id", "request_id"}
    assert {r["kind"] for r in found.finding.to_pylist()} == {"identity_conflict"}


def test_trace_headers_that_reached_the_engine_resolve_a_repeated_request_id() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    rows = [exchange("server", 7 + i, 10 * i, "api", port=i, response_id="chatcmpl-same") for i in range(2)]
    engine = [engine_request(f"chatcmpl-same-0000000{i}", 12, external_id="chatcmpl-same") for i in range(2)]
    uuid = bytes.fromhex(trace)
    for i in range(2):
        rows[i] |= {"trace_id": uuid, "parent_span_id": 100 + i}
        engine[i] |= {"trace_id": uuid, "parent_span_id": 100 + i}
    found = joined(rows, engine, losses=[])
    for i in range(2):
        assert (
            attempts(found, "internal_id")[f"chatcmpl-same-0000000{i}"]
            == attempts(found, "exchange")[f"b/{7 + i}/0/server"]
        )
    assert {e[2:] for e in edges(found, "served_by")} == {("exact", "trace_headers")}


def test_a_retry_through_envoy_is_a_second_attempt_of_one_request() -> None:
    masked = "5b2f0e9c-1a2b-{}cde-8f01-23456789abcd"
    rows = [
        exchange("server", 1, 0, "envoy", port=1, lasts_ms=300, request_id=masked.format(4), response_id="chatcmpl-b"),
        exchange("client", 2, 5, "envoy", port=2, lasts_ms=20, request_id=masked.format(9), status=503),
        exchange("server", 3, 6, "pod1", port=2, lasts_ms=18, request_id=masked.format(9), status=503),
        exchange("client", 4, 50, "envoy", port=4, lasts_ms=200, request_id=masked.format(9), response_id="chatcmpl-b"),
        exchange("server", 5, 51, "pod2", port=4, lasts_ms=198, request_id=masked.format(9), response_id="chatcmpl-b"),
    ]
    found = joined(rows, [engine_request("chatcmpl-b-0badcafe", 52, external_id="chatcmpl-b")], losses=[])
    by_exchange = attempts(found, "exchange")
    assert by_exchange["b/5/0/server"] == by_exchange["b/1/0/server"] == "chatcmpl-b"
    assert by_exchange["b/3/0/server"] == by_exchange["a/2/0/client"] != "chatcmpl-b"
    assert len(set(requests(found, "exchange").values())) == 1
    assert [e[2:] for e in edges(found, "retried")] == [("exact", "request_id")]
    assert found.finding.num_rows == 0


def test_an_sdks_retry_keeps_its_trace_and_is_called_derived() -> None:
    trace = bytes(range(16))
    rows = [
        exchange("server", 1, 0, "api", port=1, trace_id=trace, status=500),
        exchange("server", 2, 900, "api", port=2, trace_id=trace, response_id="chatcmpl-b"),
        exchange("server", 3, 2000, "api", port=3, trace_id=trace, response_id="chatcmpl-c"),
    ]
    found = joined(rows, [])
    request = requests(found, "exchange")
    assert request["b/1/0/server"] == request["b/2/0/server"] != request["b/3/0/server"]
    assert [e[2:] for e in edges(found, "retried")] == [("derived", "trace_id")]


def test_a_decode_is_tied_to_the_prefill_that_it_names() -> None:
    found = joined(
        [
            exchange("server", 1, 0, "p-api", port=1, response_id="chatcmpl-x"),
            exchange("server", 2, 60, "d-api", port=2, response_id="chatcmpl-x"),
        ],
        [
            engine_request("chatcmpl-x-0000000a", 1, "p", external_id="chatcmpl-x", role="prefill"),
            engine_request(
                "chatcmpl-x-0000000b",
                61,
                "d",
                external_id="chatcmpl-x",
                role="decode",
                remote_request_id="chatcmpl-x-0000000a",
            ),
        ],
    )
    assert edges(found, "prefilled_by") == [
        ("d/chatcmpl-x-0000000b", "p/chatcmpl-x-0000000a", "exact", "remote_request_id")
    ]
    attempt = attempts(found, "internal_id")
    assert attempt["chatcmpl-x-0000000a"] != attempt["chatcmpl-x-0000000b"]
    assert len(set(requests(found, "internal_id").values())) == 1
    assert found.finding.num_rows == 0


def test_a_transfer_id_ties_exactly_one_prefill_to_exactly_one_decode() -> None:
    one = [
        engine_request(f"{role}{room}", 1, role, role=role, transfer_id=str(room))
        for role in ("prefill", "decode")
        for room in (1, 2)
    ]
    assert [e[:2] for e in edges(joined([], one), "prefilled_by")] == [
        ("decode/decode1", "prefill/prefill1"),
        ("decode/decode2", "prefill/prefill2"),
    ]
    several = [
        engine_request(f"{role}{i}", 1, role, role=role, transfer_id="1")
        for role in ("prefill", "decode")
        for i in (1, 2)
    ]
    assert edges(joined([], several), "prefilled_by") == []


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=6))
def test_neither_order_nor_duplication_of_rows_changes_what_is_found(order: list[int], again: list[int]) -> None:
    rows = [
        exchange(
            side,
            10 * i + (side == "server"),
            40 * i,
            side,
            port=i,
            response_id=None if side == "client" else f"cmpl-{i % 3}",
        )
        for i in range(4)
        for side in ("client", "server")
    ]
    engine = [engine_request(f"cmpl-{i % 3}-0-0000000{i}", 40 * i + 1, external_id=f"cmpl-{i % 3}-0") for i in range(8)]
    plain = joined(rows, engine)
    turned = joined([rows[i] for i in [*order, *again]], [engine[i] for i in [*again, *order]])
    assert turned.alias.equals(plain.alias)
    assert turned.edge.equals(plain.edge)
    assert turned.finding.equals(plain.finding)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(1, 30), st.sampled_from([200, 503])),
        min_size=1,
        max_size=9,
    )
)
def test_no_attempt_ever_holds_two_exchanges_of_one_server(rows: list[tuple[int, int, int, int]]) -> None:
    exchanges = [
        exchange(
            "server",
            i,
            at,
            "api",
            port=i,
            lasts_ms=lasts,
            status=status,
            request_id=f"r{same}",
            response_id=f"chatcmpl-r{same}",
        )
        for i, (same, at, lasts, status) in enumerate(rows)
    ]
    engine = [
        engine_request(f"chatcmpl-r{same}-{i:08x}", at, external_id=f"chatcmpl-r{same}")
        for i, (same, at, _, _) in enumerate(rows)
    ]
    found = joined(exchanges, engine)
    by_exchange = attempts(found, "exchange")
    assert len(set(by_exchange.values())) == len(rows)
    exact = [(e[0], e[1]) for e in edges(found, "served_by") if e[2] == "exact" and e[3] != "itself"]
    served = {attempt: int(uid.rsplit("-", 1)[1], 16) for attempt, uid in exact}
    for i in range(len(rows)):
        assert served.get(by_exchange[f"b/{i}/0/server"], i) == i


def test_what_a_proxy_passes_on_is_one_attempt_and_its_two_sides_are_tied() -> None:
    way = {"response_id": "chatcmpl-abc", "node": "a"}
    near, far = ({f"{one}_address": "10.0.0.9", f"{two}_address": "10.0.0.5"}
                 for one, two in (("local", "peer"), ("peer", "local")))  # fmt: skip
    found = joined(
        [
            exchange("client", 1, 0, "app", **way),
            exchange("server", 2, 1, "envoy", lasts_ms=48, **way),
            exchange("client", 3, 2, "envoy", lasts_ms=46, port=1, **way, **near),
            exchange("server", 4, 3, "api", lasts_ms=44, port=1, **way, **far),
        ],
        [engine_request("chatcmpl-abc-0badcafe", 4)],
    )
    assert set(attempts(found, "exchange").values()) == {"chatcmpl-abc"}
    assert edges(found, "relayed_as") == [("a/2/0/server", "a/3/0/client", "exact", "one_process")]
    received = [(start, end) for start, end, _, _ in edges(found, "received_as")]
    assert received == [("a/1/0/client", "a/2/0/server"), ("a/3/0/client", "a/4/0/server")]
    rows = found.edge.to_pylist()
    assert {(row["confidence"], row["error_low_ns"], row["error_high_ns"]) for row in rows} == {(1.0, 0, 0)}


def test_between_two_nodes_an_edges_error_is_not_said_to_be_none() -> None:
    found = joined([exchange("client", 1, 0, "app"), exchange("server", 7, 1, "api", response_id="cmpl-1")], [])
    errors = {row["relation"]: row["error_high_ns"] for row in found.edge.to_pylist()}
    assert errors == {"received_as": None, "carried_by": 0}


def test_aliases_of_a_stretch_are_those_that_were_first_seen_in_it() -> None:
    rows = [
        exchange(
            "server", n, 1000 * n, "api", port=n, request_id=f"r{n % 3}", response_id=f"chatcmpl-r{n % 3}", status=503
        )
        for n in range(9)
    ]
    tables = [table(n, r) for n, r in (("http_exchange", rows), ("engine_request", []), ("connection", []))]
    every = identify(*tables).alias
    parts = [identify(*tables, window=(low, low + 3000 * MS)).alias for low in range(0, 9000 * MS, 3000 * MS)]
    assert all(len(part) for part in parts)
    assert pa.Table.from_batches(parts).equals(pa.Table.from_batches([every]))
