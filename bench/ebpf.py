"""The eBPF sources: what they find of the truth, what they cost the server, the kernel and the collector.

The server runs on core 0, load and reader on the others. A comparison is made of windows in turn, probe attached and not,
and is the median of the ratios of neighbours, so that whatever else the machine does weighs on both. A latency's p99 is
taken of all windows of a kind together, for one window has too few samples beyond it; how far it can be trusted is printed
beside it: what nine in ten resamplings of the windows give (low, high), and what the same comparison says of windows that
do not differ (control).
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from collectors.bpf import loader, syscall
from collectors.bpf.ring import Ring
from collectors.http_exchange import ROWS_EVERY, Probe
from warpline.clock import NodeClock
from warpline.settings import Settings
from warpline.source import Context

HERE = Path(__file__).parent
RATES = ((10, 3.0), (100, 3.0), (1000, 3.0), (5000, 3.0))
PAIRS, WINDOW_S = 9, 1.0
LATENCY_PAIRS, LATENCY_WINDOW_S = 20, 1.5
OTHERS = ",".join(str(cpu) for cpu in range(1, os.cpu_count() or 2)) or "0"


def run() -> None:
    """Print every figure of the group `ebpf`; a sentence instead where BPF cannot run."""
    reason = loader.why_not()
    if reason:
        print(f"ebpf: not measured: {reason}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["cc", "-O2", "-o", str(folder / "load"), str(HERE / "http_load.c")], check=True)
        reader_speed(folder)
        start_up(folder)
        with watching(folder) as bench:
            accuracy(bench)
            per_call(bench)
            cost(bench)


class Bench:
    """The probe, a thread that polls it, and what it gave."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lost = folder, 0
        context = Context("http_exchange", "bench", Settings(state_dir=str(folder)), NodeClock(folder), self._emitted)
        self.probe = Probe(context)
        self.tables: list[Any] = []
        self.cpu_ns = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def _emitted(self, batch: Any) -> None:
        self.lost += sum(batch.rows.column("lost").to_pylist())

    def _poll(self) -> None:
        os.sched_setaffinity(0, {int(each) for each in OTHERS.split(",")})
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), Settings().collector_nice)
        for turn in itertools.count():
            if self._stop.wait(0.1):
                return
            if turn % ROWS_EVERY and not self.probe.is_filling():
                self.probe.follow()
                continue
            rows = self.probe.poll().rows
            if rows.num_rows:
                self.tables.append(rows)
            self.cpu_ns = time.thread_time_ns()

    def attach(self, on: bool) -> None:
        if on:
            self.probe.loaded.attach_raw(self.probe.attaches)
            return
        for function, tracepoint in self.probe.attaches.items():
            self.probe.loaded.detach((function, tracepoint))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.probe.close()

    def load(self, *words: object) -> dict[str, float]:
        return load(self.folder, *words)


def load(folder: Path, *words: object) -> dict[str, float]:
    """Run http_load.c on the cores beside the server's; return what it says."""
    command = ["taskset", "-c", OTHERS, str(folder / "load"), *map(str, words)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


@contextmanager
def watching(folder: Path) -> Iterator[Bench]:
    bench = Bench(folder)
    try:
        yield bench
    finally:
        bench.close()


@contextmanager
def server(bench: Bench, kind: str) -> Iterator[tuple[int, Callable[[], list[Any]]]]:
    """A watched server; gives its port, and a function that ends it and returns its own record."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    log = bench.folder / f"log-{port}"
    command = ["taskset", "-c", "0", sys.executable, str(HERE / "_ebpf_server.py"), str(port), kind, str(log)]
    process = subprocess.Popen(command)
    bench.probe.targets.watch(process.pid)

    def end() -> list[Any]:
        process.send_signal(signal.SIGINT)
        process.wait()
        return json.loads(log.read_text(encoding="ascii")) if log.exists() else []

    try:
        wait_for(port)
        yield port, end
    finally:
        if process.poll() is None:
            end()


def wait_for(port: int) -> None:
    """Wait, for 20 s at most, until something listens on `port`."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)


def accuracy(bench: Bench) -> None:
    """Requests found of those that the server's own log has, with every field compared."""
    for rate, seconds in RATES:
        bench.tables, bench.lost = [], 0
        with server(bench, "nothing") as (port, end):
            cpu, began = bench.cpu_ns, time.monotonic()
            load = bench.load(port, 64, rate, seconds, 10, 1)
            cpu_ratio = (bench.cpu_ns - cpu) / 1e9 / (time.monotonic() - began)
            time.sleep(0.5)
            truth = {row[0]: row for row in end()}
        time.sleep(1.0)  # Rows are made twice a second.
        rows = [row for table in bench.tables for row in table.to_pylist() if row["side"] == "server"]
        found = {int(row["trace_id"]): row for row in rows if row["trace_id"]}
        right = sum(_right(row, truth[number]) for number, row in found.items() if number in truth)
        base = bench.probe.context.clock.anchor_ns
        late = [
            row["first_body_ns"] - base - truth[n][4]
            for n, row in found.items()
            if n in truth and truth[n][4] and row["first_body_ns"]
        ]
        keys = f"rate_per_s={rate} sent={len(truth)} answered={load['done']:.0f}"
        print(f"FIGURE ebpf.http.recall {right / max(len(truth), 1):.6f} ratio {keys} limit=1.0")
        print(f"FIGURE ebpf.http.precision {right / max(len(rows), 1):.6f} ratio {keys} rows={len(rows)} limit=1.0")
        print(f"FIGURE ebpf.http.lost {bench.lost} events {keys} limit=0")
        print(
            f"FIGURE ebpf.http.first_body_error_us {statistics.median(late) / 1e3:.1f} us {keys} against=server_clock"
        )
        print(f"FIGURE ebpf.reader.cpu_ratio {cpu_ratio:.4f} ratio {keys} limit=0.06")


def _right(row: dict[str, Any], truth: list[Any]) -> bool:
    number, method, path, client_port, first = truth
    fields = (row["method"], row["path"], row["peer_port"], row["status"], row["ended_by"], row["request_id"])
    chunks = 8 if first else 1
    return fields == (method, path, client_port, 200, "complete", f"r{number}") and row["chunks"] == chunks


def cost(bench: Bench) -> None:
    """Throughput at saturation, and latency at 70 % of it, of watched servers: attached against not, in turn."""
    for kind, name, limit in (("fastapi", "throughput_cost_ratio", 0.02), ("nothing", "saturated_cost_ratio", 0.15)):
        with server(bench, kind) as (port, _):
            off, on = _in_turn(bench, partial(bench.load, port, 16, 0, WINDOW_S, 0, 1))
            ratio = statistics.median(1 - b["per_s"] / a["per_s"] for a, b in zip(off, on, strict=True))
            speed = statistics.median(each["per_s"] for each in off)
            print(f"FIGURE ebpf.http.{name} {ratio:.4f} ratio server={kind} per_s={speed:.0f} limit={limit}")
            if kind == "fastapi":
                latency(bench, port, round(speed * 0.7))


def latency(bench: Bench, port: int, rate: int) -> None:
    """Latency of a watched server at a fixed rate: attached against not, in turn."""

    def window() -> Any:
        bench.load(port, 16, rate, LATENCY_WINDOW_S, 0, 1, bench.folder / "took")
        return np.fromfile(bench.folder / "took") * 1e6

    off, on = _in_turn(bench, window, LATENCY_PAIRS)
    keys = f"server=fastapi rate_per_s={rate} samples={sum(map(len, on))}"
    for share, limit in ((50, ""), (90, ""), (99, " limit=0.05")):
        base = np.percentile(np.concatenate(off), share)
        low, high = interval(off, on, share)
        control = added(off[::2], off[1::2], share)
        print(
            f"FIGURE ebpf.http.p{share}_added_ratio {added(off, on, share):.4f} ratio {keys} base_us={base:.0f} "
            f"low={low:.4f} high={high:.4f} control={control:.4f}{limit}"
        )


def added(off: list[Any], on: list[Any], share: float) -> float:
    """Return by how much percentile `share` of all windows `on` together lies above that of `off`."""
    return float(np.percentile(np.concatenate(on), share) / np.percentile(np.concatenate(off), share) - 1)


def interval(off: list[Any], on: list[Any], share: float) -> tuple[float, float]:
    """Return between what nine in ten resamplings of the pairs of windows lie."""
    random = np.random.default_rng(7)
    picks = random.integers(0, len(off), (500, len(off)))
    found = [added([off[each] for each in pick], [on[each] for each in pick], share) for pick in picks]
    return float(np.percentile(found, 5)), float(np.percentile(found, 95))


def _in_turn(bench: Bench, window: Callable[[], Any], pairs: int = PAIRS) -> tuple[list[Any], list[Any]]:
    window()
    off, on = [], []
    for _ in range(pairs):
        bench.attach(False)
        off.append(window())
        bench.attach(True)
        on.append(window())
    return off, on


def per_call(bench: Bench) -> None:
    """What one system call costs more: of a process that is not watched (no socket, a TCP pair), and of one that is."""
    for kind, calls, watch, name, limit in (
        ("nothing", 300_000, False, "other_call_ns", 150),
        ("pair", 100_000, False, "other_socket_call_ns", 150),
        ("pair", 100_000, True, "watched_call_ns", 2000),
    ):

        def window(kind: str = kind, calls: int = calls, watch: bool = watch) -> float:
            command = ["taskset", "-c", "0", str(bench.folder / "load"), kind, str(calls)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            if watch:
                bench.probe.targets.watch(process.pid)
            return float(process.communicate()[0])

        off, on = _in_turn(bench, window)
        added = statistics.median(b - a for a, b in zip(off, on, strict=True))
        floor = f" empty_ns={empty_price(bench, window):.0f}" if kind == "pair" and not watch else ""
        print(f"FIGURE ebpf.http.{name} {added:.0f} ns base_ns={statistics.median(off):.0f}{floor} limit={limit}")


def empty_price(bench: Bench, window: Callable[[], float]) -> float:
    """Return what programs that do nothing cost where the probe's stand: what no early way out can save."""
    bench.attach(False)
    hooks = list(bench.probe.attaches.values())
    program = loader.load_empty()
    pairs = []
    for _ in range(PAIRS):
        off = window()
        links = [syscall.open_raw_tracepoint(program, each) for each in hooks]
        pairs.append(window() - off)
        for link in links:
            os.close(link)
    os.close(program)
    bench.attach(True)
    return statistics.median(pairs)


def reader_speed(folder: Path) -> None:
    """Records of 48 bytes out of a full ring of 64 MB, CPU time of this thread."""
    record = np.dtype([("time_ns", "<u8"), ("values", "<u8", (5,))])
    size, page, count = 64 << 20, 4096, (64 << 20) // 56
    path = Path("/dev/shm") / f"ring-{os.getpid()}"
    try:
        with path.open("w+b") as file:
            file.truncate(2 * page + 2 * size)
            memory = np.memmap(file, np.uint8, "r+")
            block = np.zeros(count, [("length", "<u4"), ("page", "<u4"), ("record", record)])
            block["length"] = record.itemsize
            memory[2 * page : 2 * page + count * 56] = block.view(np.uint8)
            memory[page : page + 8].view(np.uint64)[0] = count * 56
            ring = Ring(file.fileno(), size, record)
            speeds = [_drain(ring, memory) for _ in range(7)]
    finally:
        path.unlink(missing_ok=True)
    print(f"FIGURE ebpf.reader.events_per_core_s {statistics.median(speeds):.0f} events/s bytes=48 limit=10000000")


def _drain(ring: Ring, memory: Any) -> float:
    memory[:8].view(np.uint64)[0] = 0
    seen, began = ring.seen, time.thread_time()
    while len(ring.take()):
        pass
    return (ring.seen - seen) / (time.thread_time() - began)


def start_up(folder: Path) -> None:
    """A process that does nothing but this source: time until it is attached, first and again, and its memory."""
    text = (
        "import resource, time; began = time.monotonic()\n"
        "from warpline import lean\n"  # As `warpline collect` begins.
        "from pathlib import Path\nfrom bench import ebpf\n"
        f"state = {str(folder / 'start')!r}; settings = ebpf.Settings(state_dir=state)\n"
        "probe = ebpf.Probe(ebpf.Context('x', 'bench', settings, ebpf.NodeClock(Path(state)), print))\n"
        "seconds = time.monotonic() - began\n"
        "resident = next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1]\n"
        "print(seconds, int(resident) / 1024)\n"
    )
    for kept in (0, 1):
        answer = subprocess.run(
            [sys.executable, "-c", text], check=True, stdout=subprocess.PIPE, cwd=HERE.parent
        ).stdout
        seconds, resident = map(float, answer.split())
        print(f"FIGURE ebpf.http.start_s {seconds:.2f} s kept={kept} limit=3.0")
    print(f"FIGURE ebpf.http.rss_mb {resident:.0f} MB limit=200")
