"""What watching the GPU costs, on the CUDA double: each launch, the host at fixed rates, the reader, the plugin's step.

The double's driver is faster than a real one, so a ratio to it overstates; the ns per launch carry over, CUPTI's own work
inside a real driver does not. That is what `bench/gpu/` measures on a machine that has a GPU: none was at hand.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from collectors.inject.build import build as build_library
from collectors.rings import executions
from collectors.rings.ring_file import RECORD, Ring
from collectors.vllm_plugin.warpline_vllm import steps
from collectors.vllm_plugin.warpline_vllm.ring import SCHEDULED, StepRing
from demo.cuda_double.build import build as build_double
from demo.cuda_double.build import compiler
from demo.cuda_double.driver import environment

_ZYMTRACE_NS = 25_000
_PARCAGPU_LOSS_RATIO = 0.64
_RATES = (10_000, 100_000, 500_000)
_SECONDS = 1.0
_TURNS = 3
_LEVELS = {"callbacks": {"WARPLINE_GPU_LEVEL": "callbacks"}, "graph": {"WARPLINE_GPU_EAGER_STEPS": "1/1"}}


def run() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        program = _program(directory)
        for rate in (0, *_RATES):
            _launches(program, directory, rate)
        _reader(directory)
        _plugin(directory)


def _program(directory: Path) -> Path:
    made, double = directory / "gpu_launches", build_double()
    source = Path(__file__).with_name("gpu_launches.c")
    command = [compiler() or "cc", "-O2", "-o", str(made), str(source), str(double / "libcuda.so.1")]
    subprocess.run(command, check=True)
    return made


def _launches(program: Path, directory: Path, rate: int) -> None:
    """Run without the library and at each level in turn, so that the machine's moods meet all alike."""
    found: dict[str, list[tuple[float, float]]] = {"absent": [], "none": [], "callbacks": [], "graph": []}
    for _ in range(_TURNS):
        for level in found:
            found[level].append(_one(program, directory, rate, level))
    base_ns = statistics.median(ns for _, ns in found["absent"])
    base_rate = statistics.median(held for held, _ in found["absent"])
    for level in ("none", "callbacks", "graph"):
        added_ns = statistics.median(ns for _, ns in found[level]) - base_ns
        held = statistics.median(held for held, _ in found[level]) / base_rate
        if rate:
            label = f"rate={rate} level={level} peer_parcagpu={_PARCAGPU_LOSS_RATIO} simulated=1"
            print(f"FIGURE gpu.host.slowdown_ratio {max(0.0, 1 - held):.4f} 1 {label}", flush=True)
            print(f"FIGURE gpu.host.cost_ratio {max(0.0, added_ns) * rate / 1e9:.4f} 1 {label}", flush=True)
        else:
            label = f"level={level} without_ns={base_ns:.0f} peer_zymtrace={_ZYMTRACE_NS} simulated=1"
            print(f"FIGURE gpu.launch.added_ns {added_ns:.0f} ns {label}", flush=True)


def _one(program: Path, directory: Path, rate: int, level: str) -> tuple[float, float]:
    """Return calls per second that were reached, and the median ns of a call."""
    rings = directory / "rings"
    library = None if level == "absent" else build_library()
    more = {"WARPLINE_GPU_LEVEL": "none"} if level == "none" else _LEVELS.get(level, {})
    env = {**os.environ, **environment(build_double(), library, rings), **more}
    done = subprocess.run(
        [str(program), str(rate), str(_SECONDS)], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    for each in rings.glob("*.ring"):
        each.unlink()
    calls, seconds, ns = done.stdout.split()
    return float(calls) / float(seconds), float(ns)


def _reader(directory: Path) -> None:
    """A full ring, half launches and half executions, to Arrow batches: rows per second of one core."""
    path = directory / "cuda-1.ring"
    size = 1 << 18
    raw = np.zeros(4096 + 64 + size * RECORD.itemsize, np.uint8)
    raw[:8] = np.frombuffer(b"WLRING01", np.uint8)
    raw[8:24].view("<u4")[:] = (1, 4096, 64, 64)
    raw[24:32].view("<u8")[:] = size
    raw[128:136].view("<u8")[:] = size
    records = raw[4096 + 64 :].view(RECORD)
    records["number"] = np.arange(1, size + 1)
    records["kind"] = 1 + np.arange(size) % 2
    records["start"], records["end"] = np.arange(size) * 1000, np.arange(size) * 1000 + 700
    records["correlation"] = np.arange(size) // 2 + 1
    raw.tofile(path)
    origin = executions.Origin("node", "node:1:1", 0, {0: "GPU-0"}, [""], True, "cuda_kernel")
    rates = []
    for _ in range(_TURNS):
        start, rows = time.process_time(), 0
        with Ring(path) as ring:
            while len(found := ring.take(65536).records):
                launched = executions.is_launch(found)
                rows += executions.launches(found[launched], origin).num_rows
                rows += executions.gpu_kernels(found[~launched], origin, 0).num_rows
        rates.append(rows / (time.process_time() - start))
    print(f"FIGURE gpu.rings.rows_per_core_s {statistics.median(rates):.0f} {{row}}/s limit=1500000", flush=True)


class _Output:
    """A SchedulerOutput of decodes, as vLLM makes it."""

    def __init__(self, requests: int) -> None:
        ids = [f"chatcmpl-{n:032x}-{n:08x}" for n in range(requests)]
        self.scheduled_new_reqs: list[object] = []
        self.scheduled_cached_reqs = self
        self.req_ids, self.resumed_req_ids = ids, set[str]()
        self.num_computed_tokens, self.num_output_tokens = [1000] * requests, [10] * requests
        self.num_scheduled_tokens = dict.fromkeys(ids, 1)
        self.total_num_scheduled_tokens = requests
        self.scheduled_spec_decode_tokens: dict[str, list[int]] = {}
        self.preempted_req_ids, self.finished_req_ids = None, set[str]()


def _plugin(directory: Path) -> None:
    """The step's record, made and written: what the plugin costs the engine's thread."""
    ring = StepRing(directory / "steps")
    for requests in (1, 32, 256, 1024):
        output, took = _Output(requests), []
        for ordinal in range(2000):
            start = time.perf_counter_ns()
            ring.write(SCHEDULED, *steps.scheduled(ordinal, start, output))
            took.append(time.perf_counter_ns() - start)
        limit = " limit=50" if requests == 256 else ""
        print(
            f"FIGURE gpu.plugin.us_per_step {statistics.median(took) / 1000:.1f} us requests={requests}{limit}",
            flush=True,
        )
    ring.close()
