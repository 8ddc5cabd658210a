"""TCP connections as the Linux kernel sees them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors import http_exchange, tcp
from tests.collectors.conftest import Caught

pytestmark = pytest.mark.needs_bpf
HERE = Path(__file__).parent
ASK = b"POST /v1/models HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
CLIENT = """
import socket, sys
for number in range(int(sys.argv[2])):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as door:
        for again in range(3):
            door.sendall(b"POST /v1/models HTTP/1.1\\r\\nContent-Length: 4\\r\\n\\r\\nbody")
            door.recv(65536)
"""


@pytest.fixture(scope="module")
def probes(bpf: None, caught: Caught) -> Iterator[tuple[tcp.Probe, http_exchange.Probe]]:
    found = tcp.Probe(caught.context), http_exchange.Probe(caught.context)
    yield found
    for probe in found:
        probe.close()


@pytest.fixture
def server() -> Iterator[tuple[int, int]]:
    """A plain server's port and pid."""
    process = subprocess.Popen([sys.executable, str(HERE / "plain_server.py"), "0"], stdout=subprocess.PIPE)
    assert process.stdout
    yield int(process.stdout.readline()), process.pid
    process.kill()
    process.communicate()


def closed(probe: tcp.Probe | http_exchange.Probe, port: int, count: int) -> list[dict[str, Any]]:
    """Rows of a port, once there are `count` that say how an exchange or a connection ended."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        rows = probe.poll().rows.to_pylist()
        found += [row for row in rows if port in (row["local_port"], row["peer_port"])]
        if sum(row["end_ns"] is not None for row in found) >= count:
            break
        time.sleep(0.05)
    return found


def test_both_ends_of_13_connections_pair_by_sequence_numbers(
    probes: tuple[tcp.Probe, http_exchange.Probe], server: tuple[int, int]
) -> None:
    port, pid = server
    for probe in probes:
        probe.targets.watch_ports([port])
        probe.poll()
    client = subprocess.run([sys.executable, "-c", CLIENT, str(port), "13"], check=True)
    assert client.returncode == 0
    rows = closed(probes[0], port, 26)
    last = {row["connection_id"]: row for row in rows}
    assert len(last) == 26
    assert {row["state"] for row in last.values()} == {"CLOSE"}
    ends = {role: [row for row in last.values() if row["role"] == role] for role in ("client", "server")}
    assert len(ends["client"]) == len(ends["server"]) == 13
    assert {(r["isn_sent"], r["isn_received"], r["local_port"]) for r in ends["client"]} == {
        (r["isn_received"], r["isn_sent"], r["peer_port"]) for r in ends["server"]
    }
    assert {(row["sent_bytes"], row["pid"] == pid) for row in ends["client"]} == {(3 * len(ASK), False)}
    assert {(row["received_bytes"], row["pid"]) for row in ends["server"]} == {(3 * len(ASK), pid)}
    assert all(row["seen_from_start"] and row["start_ns"] < row["end_ns"] for row in last.values())
    states = [row["state"] for row in rows if row["connection_id"] == ends["client"][0]["connection_id"]]
    assert states[0] == "ESTABLISHED" and states[-1] == "CLOSE"


def test_an_exchange_names_the_connection_that_carried_it(
    probes: tuple[tcp.Probe, http_exchange.Probe], server: tuple[int, int]
) -> None:
    port, _ = server
    for probe in probes:
        probe.targets.watch_ports([port])
        probe.poll()
    subprocess.run([sys.executable, "-c", CLIENT, str(port), "7"], check=True)
    connections = {row["connection_id"]: row for row in closed(probes[0], port, 2 * 7)}
    exchanges = closed(probes[1], port, 2 * 7 * 3)
    assert len(exchanges) == 2 * 7 * 3
    assert {row["connection_id"] for row in exchanges} == set(connections)
    for row in exchanges:
        assert row["side"] == connections[row["connection_id"]]["role"]
        assert row["request_offset_bytes"] == row["ordinal"] * len(ASK)


def test_a_connection_older_than_the_probe_has_its_true_offsets(
    probes: tuple[tcp.Probe, http_exchange.Probe], server: tuple[int, int]
) -> None:
    port, pid = server
    with socket.create_connection(("127.0.0.1", port)) as door:
        for _ in range(5):
            door.sendall(ASK)
            door.recv(65536)
        for probe in probes:
            probe.targets.watch(pid)
            probe.poll()
        door.sendall(ASK)
        answer = door.recv(65536)
    (exchange,) = closed(probes[1], port, 1)
    assert exchange["request_offset_bytes"] == 5 * len(ASK)
    assert exchange["response_offset_bytes"] == 5 * len(answer)
    rows = closed(probes[0], port, 1)
    assert {row["connection_id"] for row in rows} == {exchange["connection_id"]}
    assert not rows[-1]["seen_from_start"]
    assert rows[-1]["received_bytes"] == 6 * len(ASK)
    assert rows[-1]["sent_bytes"] == 6 * len(answer)


def test_a_refused_connection_is_closed_at_once(probes: tuple[tcp.Probe, http_exchange.Probe]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    probes[0].targets.watch_ports([port])
    attempt = f"import socket; socket.socket().connect_ex(('127.0.0.1', {port}))"
    subprocess.run([sys.executable, "-c", attempt], check=True)
    rows = closed(probes[0], port, 1)
    assert [(row["state"], row["role"], row["sent_bytes"]) for row in rows] == [("CLOSE", "client", 0)]
