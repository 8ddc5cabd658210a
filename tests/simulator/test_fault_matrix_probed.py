"""The fault matrix on real transports: servers and clients of HTTP/1.1 and HTTP/2, plain and under TLS, seen by the probe.

What it saw goes to the joins without the trace ids, which are the truth here. Engines are not there: their requests are made
of the servers' exchanges that were seen.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from collectors.bpf import tls as tls_libraries
from collectors.http_exchange import Probe
from correlator.joins.identity import Identity, identify
from tests.collectors import tls_files
from tests.collectors.conftest import Caught
from tests.simulator import probed_client
from tests.simulator.test_fault_matrix_sockets import Row, Truth, check, table
from tests.waiting import until

pytestmark = pytest.mark.needs_bpf
ROOT = Path(__file__).parent.parent.parent
UVICORN = ("uvicorn", "demo.server:app", "--log-level", "error", "--port", "{port}")
HYPERCORN = ("hypercorn", "demo.server:app", "--log-level", "error", "--bind", "127.0.0.1:{port}")


@dataclass(frozen=True)
class Cell:
    """A server and what is asked of it; one traffic for each of the server's lives."""

    server: tuple[str, ...]
    traffic: tuple[str, ...] = ("mixed",)
    protocol: str = "http/1.1"
    keys: tuple[str, ...] = ()
    """Flags of the key and of the certificate, where it speaks TLS."""


KEYS = "--ssl-keyfile", "--ssl-certfile"
CELLS = {
    "HTTP/1.1": Cell(UVICORN),
    "HTTP/1.1 under TLS, uvloop": Cell((*UVICORN, "--loop", "uvloop"), keys=KEYS),
    "HTTP/1.1 under TLS, asyncio": Cell((*UVICORN, "--loop", "asyncio"), keys=KEYS),
    "HTTP/2": Cell(HYPERCORN, protocol="http/2"),
    "HTTP/2 under TLS": Cell(HYPERCORN, protocol="http/2", keys=("--keyfile", "--certfile")),
    "clients go away and ask again": Cell(UVICORN, ("impatient",)),
    "clients go away and ask again, under TLS": Cell(UVICORN, ("impatient",), keys=KEYS),
    "streams are cancelled and asked again": Cell(HYPERCORN, ("impatient",), protocol="http/2"),
    "a full server refuses": Cell((*UVICORN, "--limit-concurrency", "4"), ("refused",)),
    "pipelined on a kept connection": Cell(UVICORN, ("pipelined",)),
    "the server restarts on its port": Cell(UVICORN, ("restarted", "restarted")),
    "two workers on one port": Cell((*UVICORN, "--workers", "2")),
    "two workers under TLS": Cell((*UVICORN, "--workers", "2"), keys=KEYS),
}


@pytest.fixture(scope="module")
def watched(bpf: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Probe, Caught]]:
    caught = Caught(tmp_path_factory.mktemp("state"))
    probe = Probe(caught.context)
    yield probe, caught
    probe.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return tls_files.certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("cell", CELLS)
def test_what_real_ends_said_is_followed_and_nothing_wrong_called_exact(
    watched: tuple[Probe, Caught], certificate: tuple[str, str], cell: str
) -> None:
    probe, caught = watched
    before = caught.losses()
    rows = carried(probe, certificate, CELLS[cell])
    assert caught.losses() == before, "all was seen, and none is counted as lost"
    truth = {uid(row): (int(row["trace_id"]), int(row["parent_span_id"])) for row in rows}
    sides = [Counter(truth[uid(row)] for row in rows if row["side"] == side) for side in ("client", "server")]
    assert sides[0] == sides[1] and set(sides[0].values()) == {1}
    blind = [{**row, "trace_id": None, "parent_span_id": None} for row in rows]
    random = np.random.default_rng(2)
    for lost in (0.0, 0.1, 0.4, 0.7):
        seen = [row for row in blind if random.random() >= lost]
        asked, known = engine_requests(seen, truth, random)
        found = identify(table("http_exchange", seen), table("engine_request", asked), table("connection", []))
        placed = attempts(found)
        assert placed.keys() == {*map(uid, seen), *known}, "each exchange and engine request is of one attempt"
        everyone = {**truth, **known}
        assert check(lambda kind, name, everyone=everyone: everyone.get(name), sole_answers(rows, truth), found)
        if not lost:
            assert not not_followed(seen, everyone, placed, found)


def attempts(found: Identity) -> dict[str, str]:
    """Return which attempt each entity is of; it fails where one is of two."""
    edges = [e for e in found.edge.to_pylist() if e["relation"] in ("carried_by", "served_by")]
    placed = {e["to_id"]: e["from_id"] for e in edges}
    assert len(placed) == len(edges)
    return placed


def sole_answers(rows: list[Row], truth: dict[str, Truth]) -> dict[str, Truth]:
    """Return the response ids that the server gave to one attempt alone."""
    meant: dict[str, set[Truth]] = {}
    for row in rows:
        meant.setdefault(row["response_id"], set()).add(truth[uid(row)])
    return {name: next(iter(who)) for name, who in meant.items() if name and len(who) == 1}


def not_followed(
    seen: list[Row], everyone: dict[str, Truth], placed: dict[str, str], found: Identity
) -> dict[Truth, set[str]]:
    """Return what is of several attempts to the joins, though it is of one, and no finding says which id was of no use."""
    named = {json.loads(row["details"])["id"] for row in found.finding.to_pylist()}
    said = {everyone[uid(row)] for row in seen if {row["request_id"], row["response_id"]} & named}
    parts: dict[Truth, set[str]] = {}
    for name, attempt in placed.items():
        parts.setdefault(everyone[name], set()).add(attempt)
    return {who: those for who, those in parts.items() if len(those) > 1 and who not in said}


def engine_requests(
    seen: list[Row], truth: dict[str, Truth], random: np.random.Generator
) -> tuple[list[Row], dict[str, Truth]]:
    """Return requests as an engine behind that server would have told them, and what each belonged to."""
    told, known = [], {}
    for row in seen:
        if row["side"] == "server" and row["response_id"]:
            name = f"{row['response_id']}-{int(random.integers(2**32)):08x}"
            when = {"start_ns": row["start_ns"] + 1000, "end_ns": row["end_ns"]}
            named = {"internal_id": name, "external_id": row["response_id"]}
            told.append({**when, **named, "process_uid": "engine", "node": row["node"]})
            known[f"engine/{name}"] = truth[uid(row)]
    return told, known


def carried(probe: Probe, certificate: tuple[str, str], cell: Cell) -> list[Row]:
    """Run the cell's servers and clients, one after the other; return the rows of both ends of what the clients made."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    probe.targets.watch_ports([port])
    key = [word for pair in zip(cell.keys, certificate, strict=False) for word in pair]
    command = [sys.executable, "-m", *(part.format(port=port) for part in cell.server), *key]
    url = f"{'https' if key else 'http'}://127.0.0.1:{port}/v1/chat/completions"
    rows: dict[str, Row] = {}
    made = 0
    for life, traffic in enumerate(cell.traffic):
        server = subprocess.Popen(command, cwd=ROOT)
        try:
            until(lambda: gather(probe, rows) is None and listening(port))
            wait_for_libraries(probe, bool(key))
            asks = [sys.executable, probed_client.__file__, url, cell.protocol, traffic, str(1 + 1000 * life)]
            client = subprocess.Popen(asks, stdout=subprocess.PIPE, text=True)
            until(lambda client=client: gather(probe, rows) is None and client.poll() is not None, 120)
            assert client.returncode == 0 and client.stdout
            with client.stdout:
                made += int(client.stdout.read())
            until(lambda made=made: gather(probe, rows) is None and len(told(rows, port)) >= 2 * made)
        finally:
            server.terminate()
            server.wait()
    gather(probe, rows)
    assert {row["protocol"] for row in told(rows, port)} == {cell.protocol}
    return told(rows, port)


def gather(probe: Probe, rows: dict[str, Row]) -> None:
    """Keep the last row of each exchange: one that was told while it was open is told again when it ends."""
    for row in probe.poll().rows.to_pylist():
        if uid(row) not in rows or row["end_ns"]:
            rows[uid(row)] = row


def told(rows: dict[str, Row], port: int) -> list[Row]:
    """Return the exchanges of this port that ended, those whose head was read: a door that was only tried has none."""
    return [r for r in rows.values() if port in (r["local_port"], r["peer_port"]) and r["end_ns"] and r["trace_id"]]


def wait_for_libraries(probe: Probe, tls: bool) -> None:
    """Where TLS is spoken: until the next look at the server's libraries is over."""
    begin = time.monotonic()
    until(lambda: probe.poll() and (not tls or time.monotonic() > begin + 3 * tls_libraries.LOOK_AGAIN_S))


def uid(row: Row) -> str:
    return f"{row['node']}/{row['connection_id']}/{row['ordinal']}/{row['side']}"


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
