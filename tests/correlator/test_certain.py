"""What is known for certain of bearers of one id, and what is not where rows of their kind were lost."""

from __future__ import annotations

import json
from typing import Any

from tests.correlator.identified import MS, attempts, edges, engine_request, exchange, joined


def test_two_exchanges_under_one_id_whose_other_ends_are_lost_are_not_one() -> None:
    """A client that repeats its x-request-id, of which the server makes the response's: one row of each side is left."""
    same = {"response_id": "chatcmpl-same", "request_id": "same"}
    beside = [exchange("client", 7, 0, "app", port=1, **same), exchange("server", 8, 10, "api", port=2, **same)]
    found = joined(beside, [])
    assert len(set(attempts(found, "exchange").values())) == 2
    assert {json.loads(r["details"])["kind"] for r in found.finding.to_pylist()} == {"response_id", "request_id"}
    later = [beside[0], {**beside[0], "connection_id": 9, "local_port": 40002, "process_uid": "another"}]
    assert len(set(attempts(joined(later, []), "exchange").values())) == 2
    one = [beside[0], {**beside[1], "peer_port": 40001}]
    assert edges(joined(one, [], losses=[]), "received_as")[0][2] == "exact"
    behind = [beside[0], {**beside[1], "peer_address": "10.0.0.7"}]  # Through a proxy, whose rows are lost.
    assert len(set(attempts(joined(behind, []), "exchange").values())) == 1


def test_exchanges_of_one_process_under_one_id_are_not_one_where_their_servers_rows_are_lost() -> None:
    asked = [exchange("client", n, n, "client", port=n, response_id="cmpl-same", trace_id=None) for n in range(4)]
    found = joined(asked, [])
    assert len(set(attempts(found, "exchange").values())) == 4
    held = [engine_request("cmpl-same-0-0badcafe", 2, external_id="cmpl-same-0")]
    with_engine = joined(asked, held)
    assert len(set(attempts(with_engine, "exchange").values())) == 4
    of_engine = attempts(with_engine, "internal_id")["cmpl-same-0-0badcafe"]
    bearers = [e for e in edges(with_engine, "carried_by") if e[0] == of_engine and e[2] == "exact"]
    assert len(bearers) <= 1


def test_what_a_request_id_alone_joins_is_derived() -> None:
    """One attempt alone bears it; another's rows may be lost."""
    same = {"request_id": "11111111-2222-4333-8444-555555555555"}
    asked = exchange("client", 1, 0, "client", port=1, lasts_ms=90, **same)
    behind = {**exchange("server", 2, 5, "server", port=7, **same), "peer_address": "10.0.0.7"}
    found = joined([asked, behind], [])
    assert len(set(attempts(found, "exchange").values())) == 1
    assert {rule for _, _, _, rule in edges(found, "carried_by")} == {"itself", "request_id"}
    assert sorted(evidence for _, _, evidence, _ in edges(found, "carried_by")) == ["derived", "exact"]


def asked_once(**request: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A server's exchange, and the request in an engine of its node that began while it lasted."""
    asked = exchange("server", 2, 5, "api", **request)
    return [asked], [engine_request(f"{asked['response_id']}-0badcafe", 6, external_id=asked["response_id"])]


def served(
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]], losses: list[dict[str, Any]] | None
) -> tuple[str, str]:
    (edge,) = edges(joined(*rows, losses=losses), "served_by")
    return edge[2], edge[3]


HEX = "0123456789abcdef"


def test_an_id_that_clients_can_repeat_is_exact_only_where_nothing_was_lost() -> None:
    own = asked_once(response_id=f"chatcmpl-{HEX}")
    headers = [
        asked_once(response_id="chatcmpl-mine", request_id="mine"),
        asked_once(response_id="mine", request_id="mine"),
        # Behind a proxy that says its own UUID, where the request's head was seen before the proxy.
        asked_once(response_id="chatcmpl-5b2f0e9c-1a2b-4cde-8f01-23456789abcd"),
        asked_once(response_id=f"chatcmpl-{HEX}", parse="head_truncated"),
    ]
    lost = {"start_ns": 3000 * MS, "end_ns": 3000 * MS, "node": "b", "source": "http_exchange", "reason": "ring full"}
    elsewhere = [{**lost, "node": "c"}, {**lost, "source": "dcgm"}, {**lost, "start_ns": -9 * MS, "end_ns": 0}]
    for rows in headers:
        assert served(rows, None) == ("derived", "response_id")
        assert served(rows, [{**lost, "lost": 1}]) == ("derived", "response_id")
        assert served(rows, [{**lost, "lost": 1, "node": "", "source": "export"}]) == ("derived", "response_id")
        assert served(rows, [{**each, "lost": 1} for each in elsewhere]) == ("exact", "response_id")
        assert served(rows, []) == ("exact", "response_id")
    for losses in (None, [], [{**lost, "lost": 1}]):
        assert served(own, losses) == ("exact", "response_id")


def test_a_server_that_makes_its_own_id_though_it_was_sent_one_is_believed() -> None:
    assert served(asked_once(response_id=f"chatcmpl-{HEX}", request_id="mine"), None) == ("exact", "response_id")


def test_two_ids_of_rows_without_a_nodes_name_are_not_one() -> None:
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for n, name in enumerate((HEX, HEX[::-1])):
        exchanges, engine = asked_once(response_id=f"chatcmpl-{name}")
        rows[0].append({**exchanges[0], "connection_id": n, "peer_port": 40000 + n, "node": ""})
        rows[1].append({**engine[0], "node": ""})
    assert len(set(attempts(joined(*rows, losses=[]), "internal_id").values())) == 2


def test_what_began_after_an_exchange_ended_is_not_of_it_for_certain() -> None:
    exchanges, engine = asked_once(response_id=f"chatcmpl-{HEX}")
    late = [{**engine[0], "start_ns": 9000 * MS}]
    assert served((exchanges, late), []) == ("derived", "response_id")


def test_a_failed_request_and_the_next_under_its_id_are_a_retry_for_certain_only_within_one_proxys_exchange() -> None:
    def tried(side: str, connection: int, at_ms: int, **more: Any) -> dict[str, Any]:
        return exchange(side, connection, at_ms, {"client": "envoy", "server": "pod"}[side], port=connection, **more)

    rows = []
    for n, (at_ms, status) in enumerate(((5, 503), (50, 200))):
        told = {"request_id": "mine", "status": status, "lasts_ms": 20}
        rows += [tried("client", n, at_ms, **told), tried("server", n, at_ms + 1, **{**told, "lasts_ms": 18})]
    around = {**exchange("server", 9, 0, "envoy", port=9, lasts_ms=300, request_id="mine"), "node": "a"}
    for seen, losses, evidence in (
        (rows, [], "derived"),
        ([*rows, around], [], "exact"),
        ([*rows, around], None, "derived"),
    ):
        assert {e[2] for e in edges(joined(seen, [], losses=losses), "retried")} == {evidence}
