"""All eBPF sources of the default set at once, on a streaming server: what its clients feel, and what the collector costs.

The sources run as in the collector; they are switched by their detail, 0 or ordinary, in turn, so that whatever else the
machine does weighs on both. What the collector itself costs is measured on a whole `warpline collect`, whose endpoint does
not answer, so that all it finds goes to its queue on disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
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
RATES = (100, 1000, 5000)
PAIRS, WINDOW_S = 6, 2.0
SETTLE_S = 0.5
"""Sources look at their detail ten times a second."""


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
            with _server(folder) as port:
                with _sources(folder, port) as level:
                    felt(folder, port, rate, level)
                itself(folder, port, rate)


def felt(folder: Path, port: int, rate: int, level: list[int]) -> None:
    """What clients of a server with all sources on feel, against none on."""
    took: dict[int, list[Any]] = {0: [], 2: []}
    speed: dict[int, list[float]] = {0: [], 2: []}
    for detail in (0, 2) * PAIRS:
        level[0] = detail
        time.sleep(SETTLE_S)
        found = ebpf.load(folder, port, 64, rate, WINDOW_S, 0, 1, folder / "took")
        speed[detail].append(found["per_s"])
        took[detail].append(np.fromfile(folder / "took") * 1e6)
    keys = f"rate_per_s={rate} samples={sum(map(len, took[2]))}"
    cost = np.median([1 - on / off for off, on in zip(speed[0], speed[2], strict=True)])
    print(f"FIGURE probes.together.throughput_cost_ratio {cost:.4f} ratio {keys} per_s={np.median(speed[0]):.0f}")
    for share in (50, 99):
        base = np.percentile(np.concatenate(took[0]), share)
        low, high = ebpf.interval(took[0], took[2], share)
        control = ebpf.added(took[0][::2], took[0][1::2], share)
        print(
            f"FIGURE probes.together.p{share}_added_us {base * ebpf.added(took[0], took[2], share):.0f} us {keys} "
            f"base_us={base:.0f} low_us={base * low:.0f} high_us={base * high:.0f} control_us={base * control:.0f}",
            flush=True,
        )


def itself(folder: Path, port: int, rate: int) -> None:
    """What a whole collector with these sources takes: until all of them run, of a core, and of memory."""
    metrics = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "WARPLINE_HTTP_PORTS": str(port),
        "WARPLINE_STATE_DIR": str(folder / f"state-{rate}"),
        "WARPLINE_COLLECTOR_METRICS_ADDRESS": metrics,
        "WARPLINE_COLLECTOR_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "WARPLINE_LOG_LEVEL": "error",
    }
    command = [
        "taskset",
        "-c",
        ebpf.OTHERS,
        sys.executable,
        "-m",
        "warpline.cli",
        "collect",
        "--sources",
        ",".join(SOURCES),
    ]
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, cwd=HERE.parent)
    try:
        while _running(metrics) < len(SOURCES) and time.monotonic() < began + 60:
            time.sleep(0.05)
        start_s = time.monotonic() - began
        cpu_s, since = _cpu_s(process.pid), time.monotonic()
        ebpf.load(folder, port, 64, rate, 5.0, 0, 1)
        ratio = (_cpu_s(process.pid) - cpu_s) / (time.monotonic() - since)
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]
    finally:
        process.terminate()
        process.wait()
    keys = f"sources={len(SOURCES)} rate_per_s={rate}"
    print(f"FIGURE probes.together.start_s {start_s:.2f} s {keys}")
    print(f"FIGURE probes.together.cpu_ratio {ratio:.4f} ratio {keys}")
    print(f"FIGURE probes.together.rss_mb {int(resident) / 1024:.0f} MB {keys} limit=200", flush=True)


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


@contextmanager
def _sources(folder: Path, port: int) -> Iterator[list[int]]:
    """All sources, running; their detail is the first element of what this gives."""
    level = [2]
    os.sched_setaffinity(0, {int(each) for each in ebpf.OTHERS.split(",")})
    settings = Settings(http_ports=str(port), state_dir=str(folder))
    runners = []
    for name in SOURCES:
        context = Context(name, "bench", settings, NodeClock(folder), lambda batch: None)
        context.detail = lambda: level[0]
        runners.append(Runner(source.load(name), context))
        runners[-1].start()
    try:
        while not all(each.state.up for each in runners):
            time.sleep(0.05)
        for thread in threading.enumerate():
            if thread.name.startswith("source-") and thread.native_id:
                os.setpriority(os.PRIO_PROCESS, thread.native_id, settings.collector_nice)
        yield level
    finally:
        for each in runners:
            each.context.stop.set()
        for each in runners:
            each.join(10)
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
