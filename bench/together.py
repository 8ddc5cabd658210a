"""The eBPF sources on a streaming server, each alone and all at once: what its clients feel, and what the collector costs.

The sources run as in the collector; they are switched by their detail, 0 or ordinary: in each round none, each one alone,
and all, so that whatever else the machine does weighs on all alike, and what is told are medians of the rounds' ratios. What
a collector costs is measured on a whole `warpline collect`, with one source and with all, whose endpoint does not answer, so
that all it finds goes to its queue on disk; it starts once with nothing compiled and once with what the first start kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import ebpf
from collectors.bpf import loader
from warpline import source
from warpline.children import free_port
from warpline.clock import NodeClock
from warpline.settings import Settings
from warpline.source import Context, Runner

HERE = Path(__file__).parent
SOURCES = ("http_exchange", "tcp", "sched", "syscall", "engine_wire", "cuda_launch")
ALL = "together"
RATES = (100, 1000, 5000)
ROUNDS, WINDOW_S = 5, 1.5
SETTLE_S = 0.5
"""Sources look at their detail ten times a second, and at what they have lost at least twice."""
Windows = list[tuple[float, Any]]
"""Of each window the requests/s, and each one's µs."""


def run() -> None:
    """Print the figures of the group `together`; a sentence instead where BPF cannot run."""
    reason = loader.why_not()
    if reason:
        print(f"together: not measured: {reason}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["cc", "-O2", "-o", str(folder / "load"), str(HERE / "http_load.c")], check=True)
        for rate in RATES:
            with _server(folder) as port, _sources(folder, port) as runners:
                felt(folder, port, rate, runners)
        with _server(folder) as port:
            for each in SOURCES:
                itself(folder, port, RATES[1], each, [each])
            for rate in RATES:
                itself(folder, port, rate, ALL, SOURCES)


def felt(folder: Path, port: int, rate: int, runners: dict[str, Switched]) -> None:
    """What clients of a server feel of each source and of all, against none, and what those cost and lose meanwhile."""
    found: dict[str, Windows] = {name: [] for name in ("none", *SOURCES, ALL)}
    for _ in range(ROUNDS):
        for name, windows in found.items():
            on = [each for source, each in runners.items() if name in (source, ALL)]
            for each in runners.values():
                each.switch(each in on)
            time.sleep(SETTLE_S)
            for each in on:
                each.begin()
            told = ebpf.load(folder, port, 64, rate, WINDOW_S, 0, 1, folder / "took")
            time.sleep(SETTLE_S)
            for each in on:
                each.end(name)
            windows.append((told["per_s"], np.fromfile(folder / "took") * 1e6))
    for name in (*SOURCES, ALL):
        _print_felt(name, rate, found["none"], found[name])
        keys = f"rate_per_s={rate}"
        spent, lost = (sum(each.of[name][what] for each in runners.values()) for what in (0, 1))
        print(
            f"FIGURE probes.{name}.reader_cpu_ratio {spent / 1e9 / (ROUNDS * (WINDOW_S + SETTLE_S)):.4f} ratio {keys}"
        )
        print(f"FIGURE probes.{name}.lost {lost} events {keys} limit=0", flush=True)


def _print_felt(name: str, rate: int, off: Windows, on: Windows) -> None:
    keys = f"rate_per_s={rate} samples={sum(len(took) for _, took in on)}"
    cost = np.median([1 - b / a for (a, _), (b, _) in zip(off, on, strict=True)])
    per_s = np.median([speed for speed, _ in off])
    print(f"FIGURE probes.{name}.throughput_cost_ratio {cost:.4f} ratio {keys} per_s={per_s:.0f}")
    none, some = [took for _, took in off], [took for _, took in on]
    for share in (50, 99):
        base = np.percentile(np.concatenate(none), share)
        low, high = ebpf.interval(none, some, share)
        control = ebpf.added(none[::2], none[1::2], share)
        print(
            f"FIGURE probes.{name}.p{share}_added_us {base * ebpf.added(none, some, share):.0f} us {keys} "
            f"base_us={base:.0f} low_us={base * low:.0f} high_us={base * high:.0f} control_us={base * control:.0f}"
        )


def itself(folder: Path, port: int, rate: int, name: str, sources: Sequence[str]) -> None:
    """What a whole collector with these sources takes: until all of them run, of a core, and of memory."""
    state = folder / f"state-{name}-{rate}"
    for kept in (0, 1):
        metrics = f"127.0.0.1:{free_port()}"
        began = time.monotonic()
        with _collector(port, state, metrics, sources) as pid:
            while _running(metrics) < len(sources) and time.monotonic() < began + 60:
                time.sleep(0.05)
            keys = f"sources={len(sources)} rate_per_s={rate}"
            print(f"FIGURE probes.{name}.start_s {time.monotonic() - began:.2f} s {keys} kept={kept}", flush=True)
            if kept:
                cpu_s, since = _cpu_s(pid), time.monotonic()
                ebpf.load(folder, port, 64, rate, 5.0, 0, 1)
                ratio = (_cpu_s(pid) - cpu_s) / (time.monotonic() - since)
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
                resident = next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]
                print(f"FIGURE probes.{name}.cpu_ratio {ratio:.4f} ratio {keys}")
                print(f"FIGURE probes.{name}.rss_mb {int(resident) / 1024:.0f} MB {keys} limit=200", flush=True)


@contextmanager
def _collector(port: int, state: Path, metrics: str, sources: Sequence[str]) -> Iterator[int]:
    environment = {
        **os.environ,
        "WARPLINE_HTTP_PORTS": str(port),
        "WARPLINE_STATE_DIR": str(state),
        "WARPLINE_COLLECTOR_METRICS_ADDRESS": metrics,
        "WARPLINE_COLLECTOR_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "WARPLINE_LOG_LEVEL": "error",
    }
    command = ["taskset", "-c", ebpf.OTHERS, sys.executable, "-m", "warpline.cli", "collect"]
    process = subprocess.Popen([*command, "--sources", ",".join(sources)], env=environment, cwd=HERE.parent)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    port = free_port()
    command = [
        "taskset",
        "-c",
        "0",
        sys.executable,
        str(HERE / "_ebpf_server.py"),
        str(port),
        "nothing",
        str(folder / "log"),
    ]
    process = subprocess.Popen(command)
    try:
        ebpf.wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait()


class Switched:
    """A source that runs, and is switched; `of` is its reader's CPU time in ns and what it lost, by the windows' names."""

    def __init__(self, name: str, settings: Settings, folder: Path) -> None:
        context = Context(name, "bench", settings, NodeClock(folder), lambda batch: None)
        context.detail = lambda: self._detail
        self.runner = Runner(source.load(name), context)
        self.of: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._detail = 2
        self._began = (0, 0)
        self.runner.start()

    def switch(self, on: bool) -> None:
        self._detail = 2 if on else 0

    def begin(self) -> None:
        self._began = self._now()

    def end(self, name: str) -> None:
        (spent, lost), (now, by_now), (before, until) = self.of[name], self._now(), self._began
        self.of[name] = (spent + now - before, lost + by_now - until)

    def _now(self) -> tuple[int, int]:
        context = self.runner.context
        return self.runner.cpu_ns() - context.kernel_cost_ns(), context.lost_total


@contextmanager
def _sources(folder: Path, port: int) -> Iterator[dict[str, Switched]]:
    """All sources, running, by name."""
    os.sched_setaffinity(0, {int(each) for each in ebpf.OTHERS.split(",")})
    settings = Settings(http_ports=str(port), engine_wire_executables="_ebpf_server.py", state_dir=str(folder))
    runners = {name: Switched(name, settings, folder) for name in SOURCES}
    try:
        while not all(each.runner.state.up for each in runners.values()):
            time.sleep(0.05)
        for thread in threading.enumerate():
            if thread.name.startswith("source-") and thread.native_id:
                os.setpriority(os.PRIO_PROCESS, thread.native_id, settings.collector_nice)
        yield runners
    finally:
        for each in runners.values():
            each.runner.context.stop.set()
        for each in runners.values():
            each.runner.join(10)
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _running(metrics: str) -> int:
    try:
        text = urllib.request.urlopen(f"http://{metrics}/metrics", timeout=1).read().decode()
    except OSError:
        return 0
    return sum(line.startswith("warpline_source_up{") and line.endswith(" 1.0") for line in text.splitlines())


def _cpu_s(pid: int) -> float:
    cells = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")
