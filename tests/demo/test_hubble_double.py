"""Hubble's double as the hubble source sees it: over gRPC, of packets that the kernel dropped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors import hubble
from demo import hubble_double
from tests.collectors.telemetry_doubles import Seen, context, running
from tests.waiting import until

STRANGER = "127.0.0.7"


@pytest.fixture
def denied() -> Iterator[tuple[str, int]]:
    """An nftables table that drops what the stranger sends to a port, which nobody listens at, and that port."""
    if os.geteuid() or not shutil.which("nft"):
        pytest.skip("needs root and nftables (apt.txt)")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        name = f"warpline_test_{port}"
        rule = f"ip saddr {STRANGER} udp dport {port} counter drop;"
        text = f"table inet {name} {{ chain denied {{ type filter hook input priority 0; {rule} }}\n}}"
        made = subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True, check=False)
        if made.returncode:
            pytest.skip(f"nftables cannot be used here: {made.stderr.strip()}")
        try:
            yield name, port
        finally:
            subprocess.run(["nft", "delete", "table", "inet", name], check=True)


def test_each_packet_that_the_kernel_dropped_is_told_once(denied: tuple[str, int], tmp_path: Path) -> None:
    name, port = denied
    assert hubble_double.dropped("warpline_none") == 0
    seen = Seen()
    with hubble_double.served(name, "node-a", "engine-0") as agent:
        where = context(tmp_path, seen, hubble_address=agent.address)
        with running(hubble, where, seen):
            until(lambda: agent.askers)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((STRANGER, 0))
                for _ in range(7):
                    client.sendto(b"?", ("127.0.0.1", port))
            until(lambda: len(seen.rows("flow")) == 7)
            assert hubble_double.dropped(name) == 7
    told = {(row["verdict"], row["drop_reason"], row["destination_pod"], row["node"]) for row in seen.rows("flow")}
    assert told == {("DROPPED", "POLICY_DENIED", "engine-0", "node-a")}
