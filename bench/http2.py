"""HTTP/2 and gRPC by eBPF: what is found of the calls that a client made, and what a call costs kernel and collector.

The kernel's cost is its own run-time statistics of all programs (which add two clock reads a run), of calls that stream 8
messages; beside it stands what a request of HTTP/1 with 8 chunks costs in the same run.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hpack import Encoder

from bench._grpc_load import MESSAGES, METHOD
from bench.ebpf import HERE, OTHERS, Bench, server, watching
from collectors.bpf import loader, syscall
from collectors.bpf.http2_heads import BLOCK, Heads

RATES = ((10, 3.0), (100, 3.0), (500, 3.0), (1000, 3.0))
RATE, WINDOW_S, WINDOWS = 300, 2.0, 7
_END_HEADERS, _HEADERS = 4, 1


def run() -> None:
    """Print every figure of the group `http2`; a sentence instead where BPF cannot run."""
    decoding()
    reason = loader.why_not()
    if reason:
        print(f"http2: not measured: {reason}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["cc", "-O2", "-o", str(folder / "load"), str(HERE / "http_load.c")], check=True)
        with watching(folder) as bench, called(bench) as port:
            calls = accuracy(bench, port)
            cost(bench, port, calls)


@contextmanager
def called(bench: Bench) -> Iterator[int]:
    """A gRPC server that is watched; gives its port."""
    command = ["taskset", "-c", "0", sys.executable, str(HERE / "_grpc_load.py"), "server"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        port = int(process.stdout.readline())
        bench.probe.targets.watch(process.pid)
        yield port
    finally:
        process.kill()
        process.communicate()


def call(port: int, rate: float, seconds: float, first: int) -> dict[str, Any]:
    """Make calls at a rate; return what the client says of them."""
    command = [sys.executable, str(HERE / "_grpc_load.py"), "client", str(port), str(rate), str(seconds), str(first)]
    answer = subprocess.run(["taskset", "-c", OTHERS, *command], check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, Any] = json.loads(answer)
    return found


def accuracy(bench: Bench, port: int) -> int:
    """Calls found of those that were made, with every field compared; returns how many trace ids were used."""
    first = 1
    for rate, seconds in RATES:
        bench.tables, bench.lost = [], 0
        cpu, began = bench.cpu_ns, time.monotonic()
        load = call(port, rate, seconds, first)
        cpu_ratio = (bench.cpu_ns - cpu) / 1e9 / (time.monotonic() - began)
        time.sleep(0.8)
        rows = [row for table in bench.tables for row in table.to_pylist() if row["side"] == "server"]
        right = {int(row["trace_id"]) for row in rows if row["trace_id"] and _right(row)}
        right &= set(range(first, first + load["sent"]))
        first += load["sent"]
        keys = f"rate_per_s={rate} sent={load['sent']} answered={load['done']} took_s={load['seconds']:.1f}"
        print(f"FIGURE ebpf.http2.recall {len(right) / load['sent']:.6f} ratio {keys} limit=1.0")
        print(
            f"FIGURE ebpf.http2.precision {len(right) / max(len(rows), 1):.6f} ratio {keys} rows={len(rows)} limit=1.0"
        )
        print(f"FIGURE ebpf.http2.lost {bench.lost} events {keys} limit=0")
        print(f"FIGURE ebpf.http2.reader.cpu_ratio {cpu_ratio:.4f} ratio {keys} limit=0.06")
    return first


def _right(row: dict[str, Any]) -> bool:
    number = int(row["trace_id"])
    told = [row[name] for name in ("protocol", "method", "path", "status", "grpc_status", "ended_by", "request_id")]
    return told == ["grpc", "POST", METHOD, 200, 0, "complete", f"r{number}"] and row["chunks"] == MESSAGES


def cost(bench: Bench, port: int, first: int) -> None:
    """The kernel's ns for a call, and a request of HTTP/1: with the server watched, and not watched, in turn."""
    numbers = itertools.count(first, round(RATE * WINDOW_S))
    spent = _added(bench, lambda: call(port, RATE, WINDOW_S, next(numbers))["done"])
    print(f"FIGURE ebpf.http2.call_kernel_ns {spent:.0f} ns messages={MESSAGES} limit=100000")
    with server(bench, "nothing") as (http1, _):
        spent = _added(bench, lambda: bench.load(http1, 16, RATE, WINDOW_S, 0, 1)["done"])
    print(f"FIGURE ebpf.http.request_kernel_ns {spent:.0f} ns chunks=8")


def _added(bench: Bench, window: Callable[[], float]) -> float:
    targets = bench.probe.loaded.map("targets", "<u4", "<u4")
    watched = bench.probe.targets.watched()
    differences = []
    statistics_on = syscall.enable_statistics()
    try:
        for _ in range(WINDOWS):
            spent = []
            for on in (False, True):
                for pid in watched:
                    if on:
                        bench.probe.targets.watch(pid)
                    else:
                        targets.delete(pid)
                before = bench.probe.loaded.run_ns()
                done = window()
                spent.append((bench.probe.loaded.run_ns() - before) / done)
            differences.append(spent[1] - spent[0])
    finally:
        os.close(statistics_on)
    return statistics.median(differences)


def decoding() -> None:
    """Header blocks of requests of ten fields, each with a trace id of its own, to what is told of them, on one core."""
    encoder, count = Encoder(), 4_001
    parts = np.zeros(count, BLOCK)
    for number, part in enumerate(parts):
        block = encoder.encode(_request(number + 1))
        part["connection"], part["id"], part["number"], part["type"], part["flags"] = (
            1,
            number,
            number,
            _HEADERS,
            _END_HEADERS,
        )
        part["length"], part["begins"], part["ends"] = len(block), 1, 1
        part["data"][: len(block)] = np.frombuffer(block, np.uint8)
    heads, began = Heads(4096), time.thread_time()
    heads.add(parts)
    spent = time.thread_time() - began
    assert heads.of(np.array([count - 1], np.uint64))[0].request_id == f"r{count}"
    print(f"FIGURE ebpf.http2.heads_per_core_s {count / spent:.0f} blocks/s fields=10 limit=10000")


def _request(number: int) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", METHOD),
        (":authority", "127.0.0.1:50051"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-python/1.85"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
        ("traceparent", f"00-{number:032x}-{number:016x}-01"),
        ("x-request-id", f"r{number}"),
    ]
