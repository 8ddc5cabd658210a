"""Client, server and correlator on three hosts, over links that lose, delay and are cut: one timeline, and nothing lost."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.hosts import PROXY, Cable, Host, why_no_hosts
from tests.waiting import until
from warpline.client import Client
from warpline.errors import StoreError
from warpline.settings import Settings

pytestmark = [pytest.mark.needs_bpf, pytest.mark.timeout(600)]
HERE = Path(__file__).parent
AHEAD_NS = 100_000_000
"""How far the server's clock is ahead."""
DELAY_S = 0.04
CLIENT = """
import socket, sys
for line in sys.stdin:
    address, port, path, connections = line.split()
    for number in range(1, 1 + int(connections)):
        with socket.create_connection((address, int(port)), 60) as door:
            for again in range(2):
                head = f"GET /{path} HTTP/1.1\\r\\n"
                if path == "delayed":
                    head += f"x-request-id: 00000000-0000-4000-8000-{number * 2 + again:012x}\\r\\n"
                door.sendall(f"{head}\\r\\n".encode())
                door.recv(65536)
    print("done", flush=True)
"""
CONNECTIONS = {"clear": 11, "lossy": 13, "cut": 17, "delayed": 7}
"""Of each stretch of the test, by the path that its requests ask for; two requests each."""
Asking = Callable[..., None]


class Scene:
    """The three hosts, their cables, and how to ask the correlator from here."""

    def __init__(self, folder: Path) -> None:
        self.hosts = {name: Host(name, folder) for name in ("client", "server", "correlator")}
        client, server, correlator = self.hosts.values()
        network = f"10.{64 + os.getpid() % 64}"
        self.between = Cable(client, server, f"{network}.1")
        self.uplinks = [Cable(correlator, client, f"{network}.2"), Cable(correlator, server, f"{network}.3")]
        self.mine = Cable(correlator, None, f"{network}.4")
        self.token = folder / "token"
        self.token.write_text("of-this-test\n")
        url = f"http://{network}.4.1:4320"
        self.ask = Client(Settings(query_url=url, query_token_file=str(self.token)))

    def correlate(self) -> subprocess.Popen[bytes]:
        """Start the correlator; return once it answers."""
        doors = {"grpc": 4317, "http": 4318, "query": 4320}
        addresses = {f"correlator_{door}_address": f"0.0.0.0:{port}" for door, port in doors.items()}
        process = self.hosts["correlator"].warpline(
            "correlate",
            correlator_token_file=self.token,
            correlator_memory_limit_mb=256,
            correlator_store_delay_s=0.1,
            alerts_every_s=0,
            **addresses,
        )
        until(self.answers, 120)
        return process

    def answers(self) -> bool:
        """Whether the correlator does."""
        try:
            return self.ask.get("/healthz").status == 200
        except StoreError:
            return False

    def collect(self) -> None:
        """Start a collector on each of the two nodes, which sees what runs in the cgroup of that node's workload."""
        for host, uplink in zip(list(self.hosts.values())[:2], self.uplinks, strict=True):
            address = uplink.ends[0][1]
            host.warpline(
                "collect",
                collector_sources="clock,http_exchange,tcp",
                collector_endpoint=f"http://{address}:4318",
                collector_query_url=f"http://{address}:4320",
                collector_token_file=self.token,
                collector_metrics_address="",
                collector_budget_ratio=16,
                http_cgroups=host.net,
            )

    def exchanges(self) -> Counter[tuple[str, str, str]]:
        """How many ended exchanges are stored, by node, side and path."""
        rows = self.ask.table("http_exchange").select(["node", "side", "path", "end_ns"]).to_pylist()
        return Counter(
            (row["node"], row["side"], (row["path"] or "/early")[1:]) for row in rows if row["end_ns"] is not None
        )

    def has(self, path: str) -> bool:
        """Whether both sides of all requests for a path are stored."""
        seen = self.exchanges()
        return all(seen[node, node, path] >= 2 * CONNECTIONS[path] for node in ("client", "server"))

    def requests(self) -> list[dict[str, Any]]:
        """The rows of the view `request`."""
        return list(self.ask.view("request").to_pylist())

    def close(self) -> None:
        """Leave nothing behind."""
        for host in self.hosts.values():
            host.close()


@pytest.fixture(scope="module")
def scene(bpf: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All that happens: four stretches of requests, the correlator killed while the links to it are cut."""
    reason = why_no_hosts()
    if reason:
        pytest.skip(reason)
    made = Scene(tmp_path_factory.mktemp("hosts"))
    try:
        _play(made)
        yield made
    finally:
        made.close()


def _play(scene: Scene) -> None:
    client, server, _ = scene.hosts.values()
    server.set_clock(AHEAD_NS)
    served = server.workload(str(HERE.parent / "collectors/plain_server.py"), "0", "0.0.0.0")
    port = _line(served)
    asks = client.workload("-c", CLIENT)
    to, connections = scene.between.ends[1][1], CONNECTIONS

    def ask(address: str, port: str, path: str, connections: int) -> None:
        assert asks.stdin
        asks.stdin.write(f"{address} {port} {path} {connections}\n".encode())
        asks.stdin.flush()
        assert _line(asks) == "done"

    scene.collect()
    correlator = scene.correlate()
    until(lambda: _watched(scene, lambda: ask(to, port, "early", 1)), 240)

    ask(to, port, "clear", connections["clear"])
    until(lambda: scene.has("clear"), 60)

    for host in list(scene.hosts.values())[1:]:
        host.loses(7)
    ask(to, port, "lossy", connections["lossy"])
    until(lambda: scene.has("lossy"), 120)
    for host in list(scene.hosts.values())[1:]:
        host.loses_nothing()

    for uplink in scene.uplinks:
        uplink.cut()
    correlator.kill()
    correlator.wait()
    ask(to, port, "cut", connections["cut"])
    scene.correlate()
    for uplink in scene.uplinks:
        uplink.mend()
    until(lambda: scene.has("cut"), 120)

    proxy = server.program(str(PROXY), "0.0.0.0", "127.0.0.1", port, str(DELAY_S))
    ask(to, _line(proxy), "delayed", connections["delayed"])
    until(lambda: scene.has("delayed"), 60)
    scene.ask.join_now()
    until(lambda: all(scene.ask.progress()), 60)


def _line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout
    return process.stdout.readline().decode().strip()


def _watched(scene: Scene, ask: Callable[[], None]) -> bool:
    """Whether both collectors see one request more of their own side."""
    ask()
    seen = scene.exchanges()
    opened = {row["node"] for row in scene.ask.table("connection").select(["node"]).to_pylist()}
    return all(seen[node, node, "early"] for node in ("client", "server")) and opened >= {"client", "server"}


def _count(rows: list[dict[str, Any]], *columns: str) -> Counter[Any]:
    return Counter(tuple(row[each] for each in columns) for row in rows)


def test_each_node_tells_its_own_side_of_each_request_once(scene: Scene) -> None:
    seen = scene.exchanges()
    assert {(node, side) for node, side, _ in seen} == {("client", "client"), ("server", "server")}
    for path, connections in CONNECTIONS.items():
        assert {seen[node, node, path] for node in ("client", "server")} == {2 * connections}
    rows = scene.ask.table("http_exchange").select(["node", "connection_id", "ordinal"]).to_pylist()
    assert max(_count(rows, "node", "connection_id", "ordinal").values()) == 1
    assert scene.ask.view("loss_total").to_pylist() == []


def test_the_sides_are_joined_by_the_place_in_their_connection(scene: Scene) -> None:
    direct = [row for row in scene.requests() if row["path"] in ("/clear", "/lossy", "/cut")]
    assert _count(direct, "path", "side", "client_node", "node") == {
        (f"/{path}", "server", "client", "server"): 2 * CONNECTIONS[path] for path in ("clear", "lossy", "cut")
    }
    assert sum(row["retransmits"] for row in direct if row["path"] == "/lossy") > 0
    wanted = {f"{row['node']}/{row['connection_id']}/{row['ordinal']}/server" for row in direct}
    edges = [row for row in scene.ask.table("edge").to_pylist() if row["to_id"] in wanted]
    assert _count([row for row in edges if row["relation"] == "received_as"], "rule", "evidence", "error_low_ns") == {
        ("sequence_numbers", "exact", None): len(direct)
    }


def test_an_id_joins_them_through_a_proxy_that_nobody_watches(scene: Scene) -> None:
    slow = [row for row in scene.requests() if row["path"] == "/delayed"]
    count = 2 * CONNECTIONS["delayed"]
    assert _count(slow, "node", "side") == {("client", "client"): count, ("server", "server"): count}
    named = {row["request_id"]: row for row in slow if row["node"] == "server"}
    for client in (row for row in slow if row["node"] == "client"):
        server = named[client["request_id"]]
        assert client["duration_ns"] - server["duration_ns"] >= 2 * DELAY_S * 1e9
        ends = {f"{row['node']}/{row['connection_id']}/{row['ordinal']}/{row['side']}" for row in (client, server)}
        window = {"since_ns": client["start_ns"] - 10**10, "until_ns": client["end_ns"] + 10**10}
        every = scene.ask.view("request_edge", request=client["request_uid"], **window).to_pylist()
        edges = [row for row in every if row["to_kind"] == "http_exchange"]
        assert {row["to_id"] for row in edges} == ends
        # Each end is what it is; that both are one request, only the id says, which a retry could bear too.
        assert sorted((row["rule"], row["evidence"]) for row in edges) == [
            ("itself", "exact"),
            ("request_id", "derived"),
        ]


def test_the_bounds_on_the_clocks_hold_what_they_differ_by(scene: Scene) -> None:
    client, server, _ = scene.hosts.values()
    truth = server.anchor_ns() - client.anchor_ns()
    edges = scene.ask.table("clock_edge").to_pylist()
    assert _count(edges, "node", "other_node", "status") == {("client", "server", "ok"): len(edges)}
    assert edges and all(row["low_ns"] <= truth <= row["high_ns"] for row in edges)


def test_the_timeline_of_a_request_spans_the_hosts(scene: Scene) -> None:
    asked = next(row for row in scene.requests() if row["path"] == "/cut")
    bars = scene.ask.view("request_timeline", request_uid=asked["request_uid"]).to_pylist()
    drawn = {(bar["group"], bar["track"].split(":")[0].split()[0]) for bar in bars}
    assert drawn == {("client", "client"), ("network", "client"), ("network", "server"), ("server", "server")}
