"""The main job, whole: real clients, a real Envoy, a real server, the Linux kernel, collector, OTLP, store, dashboard."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from demo import envoy
from warpline.client import Client
from warpline.settings import Settings

DEMO = [sys.executable, "-m", "warpline.cli", "demo"]
WAY = (
    "http_exchange",  # as the client's socket had it
    "http_exchange",  # as Envoy received it
    "hop",  # as Envoy wrote it down
    "http_exchange",  # as Envoy sent it on
    "http_exchange",  # as the server received it
    "attempt",
    "engine_request",
    "engine_step",
    "launch",
    "gpu_kernel",
)
"""The parts of a request's way through the demo, from the client's socket to the GPU."""


@dataclass
class Running:
    """The demo once it says where to look, and what it said until then."""

    process: subprocess.Popen[str]
    said: str

    @property
    def client(self) -> Client:
        """The correlator's query API."""
        return Client(Settings(query_url=re.findall(r"WARPLINE_QUERY_URL=(\S+)", self.said)[0]))


@pytest.fixture(scope="module")
def demo(bpf: None) -> Iterator[Running]:
    process = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = ""
    try:
        for line in process.stdout:
            said += line
            if line.startswith("look at it: "):
                break
        yield Running(process, said)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        process.stdout.close()


@pytest.mark.needs_bpf
@pytest.mark.slow
def test_the_demo_finds_every_request_that_it_sent_and_follows_each_to_the_gpu(demo: Running) -> None:
    found = re.findall(r"(\d+) requests sent, (\d+) found, slowest \d+ ms: http://\S+", demo.said)
    assert found == [("23", "23"), ("997", "997")], demo.said
    assert re.findall(r"(\d+) of (\d+) followed from the client's socket to the GPU", demo.said) == found, demo.said
    assert "not found of" not in demo.said


@pytest.mark.needs_bpf
@pytest.mark.slow
def test_one_request_is_followed_over_unbroken_edges_from_its_clients_socket_to_its_gpu_kernels(demo: Running) -> None:
    assert envoy.why_not() is None
    request = demo.client.view("request_found", id=re.findall(r"request\?id=(\S+)", demo.said)[0]).to_pylist()[0]
    edges = demo.client.view("request_edge", request=request["request_uid"]).to_pylist()
    start = "/".join(str(request[key]) for key in ("client_node", "client_connection_id", "client_ordinal")) + "/client"
    ways = [way for way in _ways(edges, start) if [kind for kind, _ in _ends(way, start)] == list(WAY)]
    assert ways, edges
    way = ways[0]
    assert [edge["relation"] for edge in way] == [
        *("received_as", "logged_as", "relayed_as", "received_as", "carried_by", "served_by"),
        *("scheduled_in", "launched", "executed_as"),
    ]
    for edge in way:
        assert edge["rule"] and edge["evidence"] == "exact", edge
        assert edge["confidence"] == 1.0 and edge["alternatives"] == 0, edge
        error_ns = 1_000_000 if "hop" in (edge["from_kind"], edge["to_kind"]) else 0  # Envoy's log has milliseconds.
        bounds = edge["error_low_ns"], edge["error_high_ns"]
        if (
            edge["relation"] == "executed_as"
        ):  # The double's GPU runs by the host's clock, after each call and before its return.
            assert (bounds[0] is None or bounds[0] <= 0) and bounds[1] >= 0, edge
        else:
            assert bounds == (-error_ns, error_ns), edge
    path = {row["request_uid"]: row for row in demo.client.view("request_path").to_pylist()}[request["request_uid"]]
    assert (path["missing"], path["proxies"], path["hops"], path["engine_requests"]) == (None, 1, 1, 1)
    assert path["steps"] == path["launched_steps"] == path["executed_steps"] >= request["output_tokens"]
    assert way[-2]["to_id"].startswith(f"{path['launches']} launches of ")
    assert way[-1]["to_id"].startswith(f"{path['executions']} executions on GPU-")


def _ways(edges: list[dict[str, Any]], start: str) -> list[list[dict[str, Any]]]:
    """Return the ways over edges from `start` that end at a GPU's executions, never twice at one place."""
    at: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for edge in edges:
        at[edge["from_id"]].append(edge)
        at[edge["to_id"]].append(edge)
    found, open_ways = [], [([], start)]
    while open_ways:
        way, here = open_ways.pop()
        if way and way[-1]["to_kind"] == "gpu_kernel":
            found.append(way)
            continue
        been = {start, *(place for _, place in _ends(way, start))}
        for edge in at[here]:
            there = edge["to_id"] if edge["from_id"] == here else edge["from_id"]
            if there not in been:
                open_ways.append(([*way, edge], there))
    return found


def _ends(way: list[dict[str, Any]], start: str) -> list[tuple[str, str]]:
    """Return (kind, id) of each place on a way."""
    here, places = start, []
    for edge in way:
        forward = edge["from_id"] == here
        places = places or [(edge["from_kind" if forward else "to_kind"], here)]
        here = edge["to_id" if forward else "from_id"]
        places.append((edge["to_kind" if forward else "from_kind"], here))
    return places


@pytest.mark.needs_bpf
@pytest.mark.slow
def test_the_demo_ends_at_ctrl_c_and_leaves_nothing_running(demo: Running) -> None:
    children = psutil.Process(demo.process.pid).children(recursive=True)
    assert any("envoy" in each.name() for each in children)
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(60) == 0
    until = time.monotonic() + 20
    while (left := [each for each in children if _runs(each)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_where_bpf_cannot_run_the_demo_says_why_and_replays_a_sample_trace() -> None:
    drop = ["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin", "--inh-caps=-bpf,-perfmon,-sys_admin"]
    if os.geteuid() != 0:
        drop = []  # Without root BPF cannot run anyway.
    done = subprocess.run([*drop, *DEMO, "--seconds", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BPF cannot run here: " in done.stdout
    assert "replaying the sample trace" in done.stdout
