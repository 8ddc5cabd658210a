"""Whose HTTP exchanges are seen: real clients and servers, workers forked later, whoever listens on a chosen port."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.collectors.http_watch import Row, Watch, connect, numbers, read_until, request
from warpline.children import free_port

pytestmark = pytest.mark.needs_bpf
HERE = Path(__file__).parent


CLIENT = """
import sys, httpx
from openai import OpenAI
base = sys.argv[1]
model = OpenAI(base_url=base + "/v1", api_key="none")
ask = dict(model="m", messages=[{"role": "user", "content": "SECRET-" * 20}])
for number in range(7):
    for _ in model.chat.completions.create(stream=True, extra_headers={"x-demo-chunks": "5"}, **ask):
        pass
    model.chat.completions.create(**ask)
with httpx.Client(base_url=base) as plain:
    for number in range(9):
        plain.post("/v1/chat/completions", json=ask, headers={"traceparent": f"00-{number + 1:032x}-{1:016x}-01"})
"""


def test_23_requests_of_real_clients_are_23_rows_on_each_side(http_watch: Watch) -> None:
    port = free_port()
    http_watch.probe.targets.watch_ports([port])
    server = subprocess.Popen([sys.executable, "-m", "demo.server", "--port", str(port)], cwd=HERE.parent.parent)
    try:
        _wait_for(port)
        subprocess.run([sys.executable, "-c", CLIENT, f"http://127.0.0.1:{port}"], check=True)
        rows = http_watch.probe.poll().rows.to_pylist()
        deadline = time.monotonic() + 20
        while len(rows) < 46 and time.monotonic() < deadline:
            time.sleep(0.05)
            rows += http_watch.probe.poll().rows.to_pylist()
    finally:
        server.terminate()
        server.wait()
    mine = [row for row in rows if port in (row["local_port"], row["peer_port"])]
    sides = {side: [row for row in mine if row["side"] == side] for side in ("client", "server")}
    assert {side: len(found) for side, found in sides.items()} == {"client": 23, "server": 23}
    assert {row["path"] for row in mine} == {"/v1/chat/completions"}
    ids = [{row["response_id"] for row in found} for found in sides.values()]
    assert ids[0] == ids[1] and len(ids[0]) == 23
    keys = [
        {(row["local_port"], row["peer_port"], row["request_offset_bytes"]) for row in sides["client"]},
        {(row["peer_port"], row["local_port"], row["request_offset_bytes"]) for row in sides["server"]},
    ]
    assert keys[0] == keys[1]
    assert "SECRET" not in str(rows)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


def test_workers_forked_later_are_watched(http_watch: Watch) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "demo.server:app", "--port", str(port), "--workers", "2"]
    server = subprocess.Popen([*command, "--log-level", "warning"], cwd=HERE.parent.parent)
    http_watch.probe.targets.watch(server.pid)
    try:
        _wait_for(port)
        for number in range(1, 18):
            with connect(port) as door:
                door.sendall(request("/v1/models", number))
                read_until(door, b"}")
        rows = http_watch.rows(17)
    finally:
        server.terminate()
        server.wait()
    assert numbers(rows) == list(range(1, 18))
    assert {row["pid"] for row in rows}.isdisjoint({server.pid})


def test_the_port_rule_finds_servers_that_listen_already(
    http_watch: Watch, rows_of: Callable[[int], list[Row]]
) -> None:
    assert len(rows_of(5)) == 5


@pytest.fixture
def rows_of(http_watch: Watch) -> Iterator[Callable[[int], list[Row]]]:
    process = subprocess.Popen([sys.executable, str(HERE / "plain_server.py"), "0"], stdout=subprocess.PIPE)
    assert process.stdout
    port = int(process.stdout.readline())
    http_watch.probe.targets.watch_ports([port])

    def ask(count: int) -> list[Row]:
        with connect(port) as door:
            for number in range(count):
                door.sendall(request("/v1/models", number + 1))
                read_until(door, b"}")
        return http_watch.rows(count)

    yield ask
    process.kill()
    process.communicate()
