"""The fault matrix on sockets: whatever carries requests, no edge that joins two of them is called exact.

Truth is who asked what: the exchanges and engine requests of one call, and of calls that retried one another. Rows are as
the probe makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correlator.joins.identity import Identity, identify
from warpline import schema

MS, BASE = 1_000_000, 1_700_000_000_000_000_000
Row = dict[str, Any]
COUNT = 60


@dataclass
class World:
    """Rows of sources, and what each exchange and engine request truly belonged to: (client's request, attempt)."""

    exchanges: list[Row] = field(default_factory=list)
    requests: list[Row] = field(default_factory=list)
    every: list[Row] = field(default_factory=list)
    """Exchanges and engine requests, those that were lost too."""
    connections: list[Row] = field(default_factory=list)
    meant: dict[tuple[str, Any], tuple[int, int]] = field(default_factory=dict)
    answers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What each response's id belonged to, where the server gave it to one answer alone."""
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def call(self, number: int, attempt: int = 0, **how: Any) -> None:
        """A client calls a server, which asks its engine; both ends of the exchange, on nodes of their own."""
        begin, lasts = BASE + how.pop("at_ms", number * 7) * MS, how.pop("lasts_ms", 400) * MS
        engine, apart, response = how.pop("engine", True), how.pop("apart_ns", 0), f"chatcmpl-{number:04d}{attempt:04d}"
        seen = {"protocol": "http/1.1", "method": "POST", "path": "/v1/chat/completions", "status": 200, **how}
        seen = {"response_id": response, "connection_id": number * 10 + attempt, "ordinal": 0, **seen}
        seen = {"request_offset_bytes": 0, "ended_by": "complete", "port": 20_000 + number * 10 + attempt, **seen}
        port = seen.pop("port")
        if "response_id" not in how:
            self.answers[response] = (number, attempt)
        for side, node, address, early in (("client", "a", "10.0.0.1", 300_000), ("server", "b", "10.0.0.2", 0)):
            here, there = (port, 8000) if side == "client" else (8000, port)
            peer = "10.0.0.2" if side == "client" else "10.0.0.1"
            ends = {"local_address": address, "local_port": here, "peer_address": peer, "peer_port": there}
            clock = apart if side == "client" else 0
            when = {"start_ns": begin - early + clock, "end_ns": begin + lasts + early + clock}
            row = {
                **seen,
                **ends,
                **when,
                "side": side,
                "node": node,
                "process_uid": f"{node}:1:{7 + (side == 'server')}",
            }
            self.exchanges.append(row)
            self.every.append(row)
            self.meant[side, (port, row["ordinal"], row["start_ns"])] = (number, attempt)
        if engine:
            response = how.get("response_id") or response
            name = f"{response}-{int(self.random.integers(2**32)):08x}"
            told = {
                "start_ns": begin + 2 * MS,
                "end_ns": begin + lasts - MS,
                "internal_id": name,
                "external_id": response,
            }
            ended = "abort" if seen["ended_by"] == "abort" or seen["status"] >= 500 else "stop"
            self.requests.append({**told, "process_uid": "b:1:100", "node": "b", "finish_reason": ended})
            self.every.append(self.requests[-1])
            self.meant["engine", name] = (number, attempt)

    def sequence_numbers(self) -> None:
        """Both kernels hold the pair of initial sequence numbers of each connection."""
        for row in self.exchanges:
            drawn = row["connection_id"] + 1
            sent, received = (drawn * 7919, drawn * 104_729)[:: 1 if row["side"] == "client" else -1]
            key = {"node": row["node"], "connection_id": row["connection_id"], "start_ns": row["start_ns"] - MS}
            told = {"isn_sent": sent, "isn_received": received, "end_ns": row["end_ns"]}
            self.connections.append({**key, **told, "process_uid": row["process_uid"]})

    def identified(self, losses: list[Row] | None = None) -> Identity:
        rows = (
            ("http_exchange", self.exchanges),
            ("engine_request", self.requests),
            ("connection", self.connections),
            *([] if losses is None else [("loss", losses)]),
        )
        return identify(*(table(*each) for each in rows))

    def counted(self) -> list[Row]:
        """Return what sources say of the rows that are gone: each looks once a second at what it lost since."""
        left = {id(row) for row in (*self.exchanges, *self.requests)}
        return [
            {
                "start_ns": row["start_ns"] - 1000 * MS,
                "end_ns": row["start_ns"],
                "node": row["node"],
                "source": "http_exchange" if "side" in row else "engine_step",
                "reason": "ring full",
                "lost": 1,
            }
            for row in self.every
            if id(row) not in left
        ]

    def truth_of(self, kind: str, uid: str) -> tuple[int, int] | None:
        """Return what an entity that an edge names belonged to."""
        if kind == "engine_request":
            return self.meant.get(("engine", uid.partition("/")[2]))
        for row in self.exchanges:
            if uid == f"{row['node']}/{row['connection_id']}/{row['ordinal']}/{row['side']}":
                port = row["local_port"] if row["side"] == "client" else row["peer_port"]
                return self.meant[row["side"], (port, row["ordinal"], row["start_ns"])]
        return None


def table(name: str, rows: list[Row]) -> pa.Table:
    declared = schema.table(name)
    names = {n for row in rows for n in row}
    columns = {n: [row.get(n) for row in rows] for n in names}
    return pa.Table.from_batches([declared.batch(columns, len(rows))] if rows else [], declared.arrow)


# Cells


def http_2(world: World, **how: Any) -> None:
    """60 streams on three connections; the heads of one in four could not be read, as the probe came in their midst."""
    for n in range(COUNT):
        unread = (
            {"parse": "partial", "response_id": None, "method": None, "path": None} if n % 4 == 3 else {"parse": "full"}
        )
        carried = {"connection_id": 900 + n % 3, "ordinal": 2 * n + 1, "port": 30_000 + n % 3, "protocol": "http/2"}
        world.call(n, **carried, request_offset_bytes=None, **unread, **how)


def tls_unread(world: World) -> None:
    """Nothing under TLS could be read: only when bytes went, and over which connection."""
    unread = {"response_id": None, "method": None, "path": None, "parse": "none", "request_offset_bytes": None}
    for n in range(COUNT):
        world.call(n, **unread)


def tls(world: World) -> None:
    for n in range(COUNT):
        world.call(n, tls="openssl", request_offset_bytes=None)


def repeated_ids(world: World) -> None:
    """A client sends one x-request-id with all that it asks at the same time, and the server makes response ids of it."""
    for n in range(COUNT):
        world.call(n, request_id=f"mine-{n // 5}", response_id=f"chatcmpl-mine-{n // 5}", at_ms=(n // 5) * 100 + n % 5)


def retries(world: World) -> None:
    """One in three calls fails and is tried again under the same x-request-id, the second time too for one in six."""
    for n in range(COUNT):
        fails = 2 if n % 6 == 0 else 1 if n % 3 == 0 else 0
        for attempt in range(fails + 1):
            ended = {"status": 503, "lasts_ms": 20} if attempt < fails else {}
            world.call(
                n, attempt, request_id=f"{n:08d}-1a2b-4cde-8f01-23456789abcd", at_ms=n * 7 + attempt * 50, **ended
            )


def aborts(world: World) -> None:
    """Clients go away in the midst of the answer, and half of them ask again with the same x-request-id."""
    for n in range(COUNT):
        world.call(n, request_id=f"r-{n}", **({"ended_by": "abort", "lasts_ms": 30} if n % 3 == 0 else {}))
        if n % 6 == 0:
            world.call(n, 1, request_id=f"r-{n}", at_ms=n * 7 + 60)


def hurried_retries(world: World) -> None:
    """Clients that ask again before the first attempt has failed: hedged requests under one x-request-id."""
    for n in range(COUNT):
        for attempt in range(2 if n % 3 == 0 else 1):
            world.call(n, attempt, request_id=f"r-{n}", at_ms=n * 7 + attempt * 50)


def skewed(apart_ns: int, drift: float = 0.0) -> Callable[[World], None]:
    """The client's node has another clock, which drifts, or is slewed."""

    def cell(world: World) -> None:
        for n in range(COUNT):
            world.call(n, apart_ns=apart_ns + int(n * 7 * MS * drift))

    return cell


def ports_used_again(world: World) -> None:
    """Two ports serve all, in keep-alive: exchanges follow one another on each, and the first of each was not seen."""
    for n in range(COUNT):
        place = {"connection_id": 50 + n % 2, "port": 40_000 + n % 2, "ordinal": n // 2, "at_ms": n * 210}
        world.call(n, **place, request_offset_bytes=n // 2 * 500, open_at_start=n < 2, lasts_ms=400)


def decode_lost(world: World) -> None:
    """A prefill engine knows its requests, and the engine that decodes them was not seen."""
    split(world)
    world.requests = [row for row in world.requests if row["role"] == "prefill"]


def prefill_lost(world: World) -> None:
    split(world)
    world.requests = [row for row in world.requests if row["role"] == "decode"]


def split(world: World) -> None:
    """A prefill engine and a decode engine, both on the way of each call; the decode names the prefill's request."""
    for n in range(COUNT):
        world.call(n)
        decode = world.requests[-1]
        name = decode["external_id"] + f"-{n:08x}"
        world.requests.append({**decode, "internal_id": name, "process_uid": "c:1:100", "node": "c", "role": "prefill"})
        decode |= {"role": "decode", "remote_request_id": name}
        world.meant["engine", name] = (n, 0)


def transfers_that_bear_one_id(world: World) -> None:
    """SGLang's bootstrap rooms are drawn at random: two pairs here drew the same."""
    split(world)
    for n, row in enumerate(world.requests):
        row |= {"remote_request_id": None, "transfer_id": f"room-{n // 4}"}


def said_again(apart_ms: int, traced: bool = False) -> Callable[[World], None]:
    """Clients that no collector sees say one x-request-id twice, or in one span. Of the first call only the engine's row
    is left, of the second only the server's."""

    def cell(world: World) -> None:
        for n in range(COUNT):
            span = {"trace_id": bytes([n // 2 + 1] * 16), "parent_span_id": n // 2 + 1} if traced else {}
            name = f"mine-{n // 2}"
            at = n // 2 * 10_000 + n % 2 * apart_ms
            world.call(n, request_id=name, response_id=f"chatcmpl-{name}", at_ms=at, **span)
            world.requests[-1] |= span
        world.exchanges = world.exchanges[3::4]
        world.requests = world.requests[::2]

    return cell


def name_of_all(world: World) -> None:
    """A client has one x-request-id for all that it ever asks, and each third fails."""
    for n in range(COUNT):
        ended = {"status": 503, "lasts_ms": 20} if n % 3 == 0 else {}
        world.call(n, request_id="mine", response_id="chatcmpl-mine", at_ms=n * 1000, **ended)


def seen_from_later_on(world: World) -> None:
    """Requests on one kept connection under TLS that nobody could read; the client's collector came after the first two."""
    for n in range(COUNT):
        unread = {"response_id": None, "method": None, "path": None, "parse": "none", "request_offset_bytes": None}
        world.call(n, connection_id=70, port=40_000, ordinal=n, at_ms=n * 300, lasts_ms=200, **unread)
    world.exchanges = [row for row in world.exchanges if row["side"] == "server" or row["ordinal"] > 1]
    for row in world.exchanges:
        if row["side"] == "client":
            meant = world.meant.pop(("client", (40_000, row["ordinal"], row["start_ns"])))
            row["ordinal"] -= 2
            world.meant["client", (40_000, row["ordinal"], row["start_ns"])] = meant


def port_taken_at_once(world: World) -> None:
    """The second of two calls under one x-request-id comes from the port of the first; one end of each was seen."""
    for n in range(COUNT):
        name, at = f"mine-{n // 2}", n // 2 * 5000 + n % 2 * 500
        again = {"request_id": name, "response_id": f"chatcmpl-{name}", "at_ms": at, "port": 50_000 + n // 2}
        world.call(n, connection_id=n, engine=False, **again)
    world.exchanges = [row for i, row in enumerate(world.exchanges) if i % 4 in (0, 3)]


def names_without_digits(world: World) -> None:
    """Engines that add nothing of their own to a client's id, on two nodes: the prefill that a decode names was lost, and
    another's of the same name was not."""
    for n in range(COUNT):
        name = f"mine-{n // 2}"
        world.call(n, request_id=name, response_id=f"chatcmpl-{name}", at_ms=n // 2 * 5000 + n % 2 * 900)
        row, where = world.requests[-1], "b" if n % 2 else "c"
        uid = f"{where}:1:100"
        row |= {"process_uid": uid, "node": where, "role": "decode" if n % 2 else "prefill"}
        row |= {"internal_id": row["external_id"] if n % 2 == 0 else row["internal_id"]}
        row |= {"remote_request_id": row["external_id"]} if n % 2 else {}
        world.meant["engine", row["internal_id"]] = (n, 0)


CELLS: dict[str, Callable[[World], None]] = {
    "HTTP/1.1": lambda world: [world.call(n) for n in range(COUNT)] and None,
    "HTTP/2": http_2,
    "TLS, read at its library": tls,
    "TLS that nobody could read": tls_unread,
    "one x-request-id for many, at once": repeated_ids,
    "retries": retries,
    "hedged requests": hurried_retries,
    "clients that go away": aborts,
    "the client's clock 10 ms ahead": skewed(10 * MS),
    "the client's clock 900 ms behind": skewed(-900 * MS),
    "the client's clock slewed": skewed(0, 500e-6),
    "the client's clock drifts": skewed(100_000, 50e-6),
    "ports used again": ports_used_again,
    "prefill and decode": split,
    "the decode's side lost": decode_lost,
    "the prefill's side lost": prefill_lost,
    "two transfers under one id": transfers_that_bear_one_id,
    "one x-request-id said again, halves lost": said_again(2000),
    "one x-request-id said again at once, halves lost": said_again(1),
    "one span of two calls, halves lost": said_again(2000, traced=True),
    "one span of two calls at once, halves lost": said_again(1, traced=True),
    "one x-request-id for all": name_of_all,
    "TLS on a kept connection, one end seen later": seen_from_later_on,
    "a port taken again at once, halves lost": port_taken_at_once,
    "engines' ids that are the client's, a prefill lost": names_without_digits,
}


def lose(rows: list[Row], ratio: float, random: np.random.Generator) -> list[Row]:
    return [row for row in rows if random.random() >= ratio]


@pytest.mark.parametrize("lost", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("numbers", [True, False], ids=["sequence numbers", "addresses alone"])
@pytest.mark.parametrize("cell", CELLS)
def test_no_edge_that_joins_two_requests_is_called_exact(cell: str, numbers: bool, lost: float) -> None:
    world = World()
    CELLS[cell](world)
    if numbers:
        world.sequence_numbers()
    world.exchanges, world.requests = (lose(rows, lost, world.random) for rows in (world.exchanges, world.requests))
    check(world.truth_of, world.answers, world.identified())
    check(world.truth_of, world.answers, world.identified(world.counted()))


Truth = tuple[int, int]
"""(number of the client's request, of its attempt)"""


def check(truth_of: Callable[[str, str], Truth | None], answers: dict[str, Truth], found: Identity) -> int:
    """Hold every exact edge against the truth: an attempt's entities are of one attempt, a retry's of one request.

    Returns how many exact edges there were.
    """
    edges = [e for e in found.edge.to_pylist() if e["evidence"] == "exact"]
    attempts: dict[str, set[tuple[int, int] | None]] = {}
    for edge in edges:
        if edge["relation"] in ("carried_by", "served_by"):
            mine = attempts.setdefault(edge["from_id"], set())
            mine |= {truth_of(edge["to_kind"], edge["to_id"])}
            mine |= {answers[edge["from_id"]]} if edge["from_id"] in answers else set()
        elif edge["relation"] in ("received_as", "relayed_as"):
            ends = {truth_of(edge[f"{end}_kind"], edge[f"{end}_id"]) for end in ("from", "to")}
            assert len(ends) == 1 and None not in ends, edge
        elif edge["relation"] == "prefilled_by":
            one, other = (truth_of("engine_request", edge[f"{end}_id"]) for end in ("from", "to"))
            assert one is not None and one == other, edge
    assert all(len(truths) == 1 and None not in truths for truths in attempts.values()), attempts
    for edge in edges:
        if edge["relation"] == "retried":
            one, other = (attempts.get(edge[f"{end}_id"]) for end in ("from", "to"))
            assert one and other and {t[0] for t in one if t} == {t[0] for t in other if t}, edge
    return len(edges)


def test_in_a_calm_cell_every_request_is_whole() -> None:
    for cell in ("HTTP/1.1", "retries", "prefill and decode", "the client's clock slewed"):
        world = World()
        CELLS[cell](world)
        world.sequence_numbers()
        aliases = world.identified().alias.to_pylist()
        told = {(a["scope"], a["value"]): a["request_uid"] for a in aliases if a["kind"] == "internal_id"}
        assert len(told) == len(world.requests)
        assert len(set(told.values())) == COUNT, cell
