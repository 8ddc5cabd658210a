"""What the HTTP source leaves out at each level of detail, and that it says so."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from collectors.http_exchange import Probe
from tests.collectors.conftest import Caught
from tests.collectors.h2_peer import PREFACE, Peer, asking, data
from tests.collectors.puppet import Puppet

pytestmark = pytest.mark.needs_bpf
HERE = Path(__file__).parent
LEFT_OUT = "left out: detail 1 follows one connection in four"


class Level:
    """The detail in force, which a test turns."""

    value = 2


@pytest.fixture(scope="module")
def level() -> Level:
    return Level()


@pytest.fixture(scope="module")
def probe(bpf: None, caught: Caught, level: Level) -> Iterator[Probe]:
    caught.context.detail = lambda: level.value
    found = Probe(caught.context)
    yield found
    found.close()


@pytest.fixture(scope="module")
def port(probe: Probe) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, str(HERE / "plain_server.py"), "0"], stdout=subprocess.PIPE)
    assert process.stdout
    found = int(process.stdout.readline())
    probe.targets.watch(process.pid)
    yield found
    process.kill()
    process.communicate()


def ask(door: socket.socket, times: int) -> None:
    for _ in range(times):
        door.sendall(b"GET /v1/models HTTP/1.1\r\nHost: here\r\n\r\n")
        while not door.recv(65536).endswith(b"}"):
            pass


def rows(
    probe: Probe, enough: Callable[[int], bool] = lambda count: False, seconds: float = 20
) -> list[dict[str, Any]]:
    """Rows until there are `enough`; all that come in `seconds` where none are to come."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    while not enough(len(found)) and time.monotonic() < deadline:
        time.sleep(0.05)
        found += probe.poll().rows.to_pylist()
    return found


def test_at_the_least_detail_whole_connections_are_left_out_and_their_requests_counted(
    probe: Probe, caught: Caught, level: Level, port: int
) -> None:
    level.value = 1
    probe.poll()
    doors = [socket.create_connection(("127.0.0.1", port)) for _ in range(61)]
    for door in doors:
        ask(door, 3)
        door.close()
    found = rows(probe, lambda count: count + caught.losses().get(LEFT_OUT, 0) >= 183)
    by_connection: dict[int, int] = {}
    for row in found:
        by_connection[row["connection_id"]] = by_connection.get(row["connection_id"], 0) + 1
    assert set(by_connection.values()) == {3}
    assert 0 < len(by_connection) < 61
    assert len(found) + caught.losses()[LEFT_OUT] == 183


def test_a_connection_that_is_followed_is_let_go_of_at_its_next_request(
    probe: Probe, caught: Caught, level: Level, port: int
) -> None:
    level.value = 2
    probe.poll()
    doors = [socket.create_connection(("127.0.0.1", port)) for _ in range(17)]
    for door in doors:
        ask(door, 1)
    assert len(rows(probe, lambda count: count >= 17)) == 17
    before = caught.losses().get(LEFT_OUT, 0)
    level.value = 1
    probe.poll()
    for door in doors:
        ask(door, 1)
        door.close()
    found = rows(probe, lambda count: count + caught.losses().get(LEFT_OUT, 0) - before >= 17)
    assert len(found) < 17
    assert len(found) + caught.losses()[LEFT_OUT] - before == 17


def test_nothing_is_attached_at_detail_0_and_all_is_seen_again_after(
    probe: Probe, caught: Caught, level: Level, port: int
) -> None:
    level.value = 0
    probe.poll()
    with socket.create_connection(("127.0.0.1", port)) as door:
        ask(door, 7)
        assert rows(probe, seconds=0.25) == []
        assert caught.losses()["not looked at: detail 0"] == 1
        level.value = 2
        probe.poll()
        ask(door, 5)
    found = rows(probe, lambda count: count >= 5)
    assert [(row["path"], row["status"], row["parse"]) for row in found] == [("/v1/models", 200, "full")] * 5


def test_connections_of_http2_are_left_out_whole_and_those_followed_stay_so(
    probe: Probe, caught: Caught, level: Level
) -> None:
    before = caught.losses().get(LEFT_OUT, 0)
    level.value = 1
    probe.poll()
    with ExitStack() as running:
        puppets = [running.enter_context(Puppet()) for _ in range(13)]
        peers = [Peer() for _ in puppets]
        for puppet in puppets:
            probe.targets.watch(puppet.process.pid)
            puppet.connect()
        for stream in (1, 3):
            for puppet, peer in zip(puppets, peers, strict=True):
                preface = PREFACE if stream == 1 else b""
                puppet.takes(preface + peer.head(stream, asking(stream), "END_STREAM"))
                puppet.writes(data(stream, b"", "END_STREAM"))
        # 13 connections that are left out, and two rows of each that is not.
        found = rows(probe, lambda count: count + 2 * (caught.losses().get(LEFT_OUT, 0) - before) >= 26)
    level.value = 2
    followed = {row["connection_id"] for row in found}
    assert len(followed) < 13
    assert len(found) == 2 * len(followed)
    assert {row["parse"] for row in found} <= {"full"}
    assert caught.losses()[LEFT_OUT] - before == 13 - len(followed)
