"""The two ends of a connection pair across network namespaces, with and without address translation in between."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from collectors import http_exchange, tcp
from correlator.joins.clock_edge import clock_edges
from correlator.joins.entities import build, named_exchanges, named_requests
from correlator.joins.pairing import pair_ends
from tests.collectors.conftest import Caught
from warpline import schema
from warpline.clock import NodeClock, Times
from warpline.source import Context

pytestmark = pytest.mark.needs_bpf
HERE = Path(__file__).parent
CLIENT = """
import socket, sys
for number in range(1, 12):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as door:
        for again in range(2):
            head = b"GET /v1/models HTTP/1.1\\r\\ntraceparent: 00-%032x-%016x-01\\r\\n\\r\\n"
            door.sendall(head % (number * 2 + again, 1))
            door.recv(65536)
"""
PROXY = Path(__file__).parent.parent / "l4_proxy.py"


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture(scope="module")
def namespaces(bpf: None) -> Iterator[tuple[str, str]]:
    """Two network namespaces, joined by a pair of virtual Ethernet devices: 10.77.0.1 and 10.77.0.2."""
    if shutil.which("ip") is None:
        pytest.skip("ip (iproute2) is not installed")
    client, server = "warpline-client", "warpline-server"
    made = subprocess.run(["ip", "netns", "add", client], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    try:
        run("ip", "netns", "add", server)
        run("ip", "link", "add", "wl0", "netns", client, "type", "veth", "peer", "name", "wl1", "netns", server)
        for name, device, address in ((client, "wl0", "10.77.0.1/24"), (server, "wl1", "10.77.0.2/24")):
            run("ip", "-n", name, "addr", "add", address, "dev", device)
            run("ip", "-n", name, "link", "set", device, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield client, server
    finally:
        for name in (client, server):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture(scope="module")
def probe(bpf: None, caught: Caught) -> Iterator[http_exchange.Probe]:
    found = http_exchange.Probe(caught.context)
    yield found
    found.close()


@pytest.fixture
def serving(namespaces: tuple[str, str], probe: http_exchange.Probe) -> Iterator[int]:
    command = ["ip", "netns", "exec", namespaces[1], sys.executable, str(HERE / "plain_server.py"), "0", "0.0.0.0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    port = int(process.stdout.readline())
    probe.targets.watch(process.pid)
    probe.targets.watch_ports([port])
    yield port
    process.kill()
    process.communicate()


def gathered(
    probe: http_exchange.Probe | tcp.Probe, counts: Callable[[dict[str, Any]], bool], count: int
) -> list[dict[str, Any]]:
    """Rows, once there are `count` of those that count, and what comes with the next look."""
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    while sum(map(counts, rows)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
        rows += probe.poll().rows.to_pylist()
    return rows + probe.poll().rows.to_pylist()


def ask(
    namespace: str, address: str, port: int, probe: http_exchange.Probe, count: int = 2 * 22
) -> dict[str, list[dict[str, Any]]]:
    probe.poll()
    run("ip", "netns", "exec", namespace, sys.executable, "-c", CLIENT, address, str(port))
    rows = gathered(probe, lambda row: True, count)
    return {side: [row for row in rows if row["side"] == side] for side in ("client", "server")}


def keys(rows: list[dict[str, Any]], mine: str, theirs: str) -> set[tuple[Any, ...]]:
    ends = [
        (row[f"{mine}_address"], row[f"{mine}_port"], row[f"{theirs}_address"], row[f"{theirs}_port"]) for row in rows
    ]
    return {(*end, row["request_offset_bytes"], row["trace_id"]) for end, row in zip(ends, rows, strict=True)}


def test_both_ends_pair_by_addresses_and_offsets(
    namespaces: tuple[str, str], probe: http_exchange.Probe, serving: int
) -> None:
    sides = ask(namespaces[0], "10.77.0.2", serving, probe)
    assert len(sides["client"]) == len(sides["server"]) == 22
    assert keys(sides["client"], "local", "peer") == keys(sides["server"], "peer", "local")
    assert {row["local_address"] for row in sides["client"]} == {"10.77.0.1"}


@pytest.fixture
def nft(namespaces: tuple[str, str]) -> Iterator[Callable[[str], None]]:
    """Adds chains of rules to the server's namespace; all go afterwards."""
    if shutil.which("nft") is None:
        pytest.skip("nft (nftables) is not installed")

    def add(chain: str) -> None:
        text = f"table ip warpline {{ chain rules {{ {chain}; }}; }}"
        run("ip", "netns", "exec", namespaces[1], "nft", text)

    yield add
    subprocess.run(["ip", "netns", "exec", namespaces[1], "nft", "delete table ip warpline"], capture_output=True)


def test_segments_sent_again_change_no_offset_and_are_counted(
    namespaces: tuple[str, str], probe: http_exchange.Probe, serving: int, nft: Callable[[str], None]
) -> None:
    nft("type filter hook input priority 0; tcp flags & (syn | fin) == 0 tcp dport != 0 numgen inc mod 7 == 0 drop")
    sides = ask(namespaces[0], "10.77.0.2", serving, probe)
    assert len(sides["client"]) == len(sides["server"]) == 22
    assert keys(sides["client"], "local", "peer") == keys(sides["server"], "peer", "local")
    assert sum(row["retransmits"] for row in sides["client"]) > 0


def test_sequence_numbers_pair_the_ends_where_addresses_are_translated(
    namespaces: tuple[str, str], caught: Caught, serving: int, nft: Callable[[str], None]
) -> None:
    nft(f"type nat hook prerouting priority -100; tcp dport 7777 redirect to :{serving}")
    probe = tcp.Probe(caught.context)
    try:
        probe.targets.watch_ports([serving, 7777])
        probe.poll()
        run("ip", "netns", "exec", namespaces[0], sys.executable, "-c", CLIENT, "10.77.0.2", "7777")
        rows = gathered(probe, lambda row: row["end_ns"] is not None, 2 * 11)
    finally:
        probe.close()
    last = {row["connection_id"]: row for row in rows}.values()
    ends = {role: [row for row in last if row["role"] == role] for role in ("client", "server")}
    assert {row["peer_port"] for row in ends["client"]} == {7777}
    assert {row["local_port"] for row in ends["server"]} == {serving}
    assert len({row["network_namespace"] for row in last}) == 2
    assert len(ends["client"]) == len(ends["server"]) == 11
    assert {
        (row["isn_sent"], row["isn_received"], row["sent_bytes"], row["received_bytes"]) for row in ends["client"]
    } == {(row["isn_received"], row["isn_sent"], row["received_bytes"], row["sent_bytes"]) for row in ends["server"]}


def test_a_proxy_in_between_makes_two_connections_of_one_request(
    namespaces: tuple[str, str], probe: http_exchange.Probe, serving: int
) -> None:
    command = ["ip", "netns", "exec", namespaces[1], sys.executable, str(PROXY), "0.0.0.0", "127.0.0.1", str(serving)]
    proxy = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert proxy.stdout
        port = int(proxy.stdout.readline())
        probe.targets.watch(proxy.pid)
        probe.targets.watch_ports([port])
        sides = ask(namespaces[0], "10.77.0.2", port, probe, 4 * 22)
    finally:
        proxy.kill()
        proxy.communicate()
    # The client and the proxy as a client; the proxy as a server and the server.
    assert len(sides["client"]) == len(sides["server"]) == 44
    assert keys(sides["client"], "local", "peer") == keys(sides["server"], "peer", "local")
    for side in sides.values():
        assert sorted(int(row["trace_id"]) for row in side) == sorted(2 * list(range(2, 24)))


class Ahead(NodeClock):
    """A node's clock that is a quarter of a second ahead when it is made, and gains 150 µs a second."""

    OFFSET_NS = 250_000_000

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.made_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def ahead_ns(self, monotonic_ns: Times) -> Times:
        """How far ahead it is at a reading of CLOCK_MONOTONIC."""
        return self.OFFSET_NS + (monotonic_ns - self.made_ns) * 3 // 20_000

    def from_monotonic(self, monotonic_ns: Times) -> Times:
        """Return node time, wrong by what the clock is ahead."""
        return super().from_monotonic(monotonic_ns) + self.ahead_ns(monotonic_ns)


def test_real_tcp_bounds_a_clock_that_is_ahead_and_gains(
    namespaces: tuple[str, str], caught: Caught, probe: http_exchange.Probe, serving: int, tmp_path: Path
) -> None:
    wrong = Ahead(tmp_path)
    other = http_exchange.Probe(Context("test", "node-2", caught.context.settings, wrong, caught.emitted.append))
    try:
        other.targets.watch_ports([serving])
        other.poll()
        mine = []
        for _ in range(8):
            mine += ask(namespaces[0], "10.77.0.2", serving, probe)["client"]
        theirs = [
            row for row in gathered(other, lambda row: row["side"] == "server", 8 * 22) if row["side"] == "server"
        ]
    finally:
        other.close()
    assert len(mine) == len(theirs) == 8 * 22
    known = schema.table("http_exchange")
    rows = [*mine, *theirs]
    columns = {name: [row[name] for row in rows] for name in known.by_name}
    exchanges = named_exchanges(pa.Table.from_batches([known.batch(columns)]))
    none = {
        name: pa.Table.from_batches([], schema.table(name).arrow) for name in ("connection", "engine_request", "loss")
    }
    entities = build(exchanges, named_requests(none["engine_request"]), none["loss"])
    pairs = pair_ends(exchanges, none["connection"], entities)
    assert len(pairs.client) == 8 * 22
    seen = {"node": ["node-1"] * len(pairs.client), "other_node": ["node-2"] * len(pairs.client)}
    for name, column, side in (
        ("sent_ns", "start_ns", pairs.client),
        ("received_ns", "start_ns", pairs.server),
        ("answered_ns", "response_start_ns", pairs.server),
        ("heard_ns", "response_start_ns", pairs.client),
    ):
        seen[name] = exchanges[column].combine_chunks().take(pa.array(side))
    first, last = min(row["start_ns"] for row in mine), max(row["end_ns"] for row in mine)
    moments = [first + (last - first) * part // 9 for part in range(10)]
    edges = clock_edges(pa.table(seen), moments).to_pylist()
    assert len(edges) == 10
    for edge in edges:
        truth = wrong.ahead_ns(edge["time_ns"] - caught.context.clock.anchor_ns)
        assert (edge["node"], edge["other_node"], edge["status"]) == ("node-1", "node-2", "ok")
        assert 0 < edge["low_ns"] <= truth <= edge["high_ns"]
