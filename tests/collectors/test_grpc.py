"""gRPC as the Linux kernel sees it: 97 calls of gRPC's own library are 97 rows on each side, sync and by asyncio."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors.http_exchange import Probe
from tests.collectors import grpc_calls
from tests.collectors.conftest import Caught

pytestmark = pytest.mark.needs_bpf
CALLS = str(Path(grpc_calls.__file__))


@pytest.fixture(scope="module")
def probe(bpf: None, caught: Caught) -> Iterator[Probe]:
    found = Probe(caught.context)
    yield found
    found.close()


@pytest.mark.parametrize("how", ["sync", "aio"])
def test_97_calls_are_97_rows_on_each_side(probe: Probe, caught: Caught, how: str) -> None:
    server = subprocess.Popen([sys.executable, CALLS, "server", how], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        port = server.stdout.readline().strip()
        client = subprocess.Popen([sys.executable, CALLS, "client", how, port], stdin=subprocess.PIPE)
        for process in (server, client):
            probe.targets.watch(process.pid)
        client.communicate(b"go\n")
        assert client.returncode == 0
        rows = until(probe, 194)
    finally:
        server.kill()
        server.communicate()
    for side in ("client", "server"):
        mine = sorted((row for row in rows if row["side"] == side), key=lambda row: int(row["trace_id"]))
        assert [int(row["trace_id"]) for row in mine] == list(range(1, 98))
        assert [row["request_id"] for row in mine] == [f"r{number}" for number in range(1, 98)]
        assert {(row["protocol"], row["method"], row["parse"]) for row in mine} == {("grpc", "POST", "full")}
        told = ("path", "status", "grpc_status", "ended_by", "chunks")
        assert Counter(tuple(row[name] for name in told) for row in mine[:-1]) == {
            ("/warpline.Test/Unary", 200, 0, "complete", 1): 53,
            ("/warpline.Test/Stream", 200, 0, "complete", 13): 23,
            ("/warpline.Test/Both", 200, 0, "complete", 3): 17,
            ("/warpline.Test/None", 200, 12, "complete", 0): 3,
        }
        assert [mine[-1][name] for name in ("status", "ended_by", "reset_code")] == [200, "abort", 8]
        assert all(row["start_ns"] <= row["response_start_ns"] <= row["end_ns"] for row in mine)
    both = [
        {(row["local_port"], row["ordinal"], row["request_offset_bytes"]) for row in rows if row["side"] == "client"}
    ]
    both.append(
        {(row["peer_port"], row["ordinal"], row["request_offset_bytes"]) for row in rows if row["side"] == "server"}
    )
    assert both[0] == both[1]
    assert "SECRET" not in str(rows)
    assert caught.losses() == {}


def until(probe: Probe, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    while len(rows) < count and time.monotonic() < deadline:
        time.sleep(0.02)
        rows += probe.poll().rows.to_pylist()
    return rows + probe.poll().rows.to_pylist()
