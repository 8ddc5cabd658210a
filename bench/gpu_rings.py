"""What watching the GPU costs, on the CUDA double: each launch, the host at fixed rates, the way of a ring's rows into the
store, the plugin's step. The rows' figures count the CPU time of all threads, collector and correlator together.

The double's driver is faster than a real one, so a ratio to it overstates; the ns per launch carry over, CUPTI's own work
inside a real driver does not. That is what `bench/gpu/` measures on a machine that has a GPU.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from bench.ingest import opened
from collectors import cuda_kernel
from collectors.inject.build import build as build_library
from collectors.rings import executions
from collectors.rings.ring_file import RECORD, Ring
from collectors.vllm_plugin.warpline_vllm import steps
from collectors.vllm_plugin.warpline_vllm.ring import EXECUTED, FINISHED, SCHEDULED, UPDATED, StepRing
from correlator.doors.receive import Receiver
from demo.cuda_double.build import build as build_double
from demo.cuda_double.build import compiler
from demo.cuda_double.driver import environment
from warpline import otlp
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.source import Context

_ZYMTRACE_NS = 25_000
_PARCAGPU_LOSS_RATIO = 0.64
_RATES = (10_000, 100_000, 500_000)
_SECONDS = 1.0
_TURNS = 3
_ARENA = 4096
_NAMES = [
    "cudaLaunchKernel_v7000",
    *(f"_ZN7example{number}gemm_kernelILi128ELi{number}EEvPKfPf" for number in range(31)),
]
_LEVELS = {"callbacks": {"WARPLINE_GPU_LEVEL": "callbacks"}, "graph": {"WARPLINE_GPU_EAGER_STEPS": "1/1"}}


def run() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        program = _program(directory)
        for rate in (0, *_RATES):
            _launches(program, directory, rate)
        _reader(directory)
        _stored(directory)
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
            zymtrace = f"peer_zymtrace={_ZYMTRACE_NS * rate / 1e9:.2f}"
            print(f"FIGURE gpu.host.cost_ratio {max(0.0, added_ns) * rate / 1e9:.4f} 1 {label} {zymtrace}", flush=True)
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


def _full_ring(path: Path, size: int = 1 << 18) -> int:
    """Write a full ring, half launches and half executions of an engine's steps; return its records."""
    names = [name.encode() for name in _NAMES]
    arena = b"".join(len(name).to_bytes(2, "little") + name for name in names)
    raw = np.zeros(4096 + _ARENA + size * RECORD.itemsize, np.uint8)
    raw[:8] = np.frombuffer(b"WLRING01", np.uint8)
    raw[8:24].view("<u4")[:] = (1, 4096, 64, _ARENA)
    raw[24:32].view("<u8")[:] = size
    raw[128:144].view("<u8")[:] = (size, len(arena))
    raw[4096 : 4096 + len(arena)] = np.frombuffer(arena, np.uint8)
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    raw[48 : 48 + len(boot)] = np.frombuffer(boot, np.uint8)
    records = raw[4096 + _ARENA :].view(RECORD)
    records["number"] = np.arange(1, size + 1)
    records["kind"] = 1 + np.arange(size) % 2
    began = time.monotonic_ns() - size * 1000
    records["start"] = began + np.arange(size) * 1000
    records["end"] = records["start"] + 700
    records["correlation"], records["step"] = np.arange(size) // 2 + 1, np.arange(size) // 600
    records["name"] = np.where(records["kind"] == 1, 1, 2 + np.arange(size) // 2 % (len(names) - 1))
    records["context"] = np.where(records["kind"] == 1, 2 + np.arange(size) // 2 % (len(names) - 1), 1)
    records["level"], records["flags"], records["thread"] = 2, executions.SAMPLED, 7
    raw.tofile(path)
    return size


def _reader(directory: Path) -> None:
    """A full ring to Arrow batches: rows per second of one core."""
    path = directory / "cuda-1.ring"
    _full_ring(path)
    rates = []
    for _ in range(_TURNS):
        start, rows = time.process_time(), 0
        with Ring(path) as ring:
            origin = executions.Origin("node", "node:1:1", 0, {0: "GPU-0"}, ring.names(), True, "cuda_kernel")
            while len(found := ring.take(65536).records):
                launched = executions.is_launch(found)
                rows += executions.launches(found[launched], origin).num_rows
                rows += executions.gpu_kernels(found[~launched], origin, 0).num_rows
        rates.append(rows / (time.process_time() - start))
    print(f"FIGURE gpu.rings.rows_per_core_s {statistics.median(rates):.0f} {{row}}/s limit=1500000", flush=True)


def _stored(directory: Path) -> None:
    """Full rings through the source, OTLP, the correlator's door, spool and store: rows per second of one core, until all
    can be asked for."""
    rings, turns = directory / "full", 4
    rings.mkdir()
    rows = sum(_full_ring(rings / f"cuda-{number}.ring") for number in range(turns))
    with opened() as (settings, store, ingest):
        receiver = Receiver(settings, ingest)
        own = replace(settings, ring_dir=str(rings), state_dir=str(directory / "collector"))
        context = Context("cuda_kernel", "bench", own, NodeClock(directory / "collector"), lambda batch: None)
        context.stop.set()  # It reads what there is, and ends.
        cpu = time.process_time()
        for number, batch in enumerate(cuda_kernel.run(context)):
            if len(batch.rows):
                body = otlp.encode([Batch(batch.table, batch.rows, f"bench/1/{number}")], {})
                with receiver.intake.room(len(body)):
                    receiver.intake.take("logs", body, otlp.PROTOBUF)
        until = time.monotonic() + 60
        while (done := store.rows_written["launch"] + store.rows_written["gpu_kernel"]) < rows:
            if time.monotonic() > until:
                raise RuntimeError(f"{done} of {rows} rows stored in 60 s")
            time.sleep(0.02)
        store.checkpoint()
        rate = rows / (time.process_time() - cpu)
        size = store.bytes
        receiver.start()
        receiver.close()
    print(f"FIGURE gpu.rings.stored_rows_per_core_s {rate:.0f} {{row}}/s rows={rows}", flush=True)
    print(f"FIGURE gpu.rings.stored_bytes_per_row {size / rows:.1f} By limit=30", flush=True)


class _Output:
    """A SchedulerOutput of decodes, as vLLM makes it, and what came of it."""

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
        self.sampled_token_ids = [[1]] * requests
        self.outputs = [SimpleNamespace(request_id=each, finish_reason=None) for each in ids]
        self.outputs[-1].finish_reason = 1


def _plugin(directory: Path) -> None:
    """A step's records, made and written: what the plugin costs the engine's threads, scheduler and worker together."""
    ring = StepRing(directory / "steps")
    for requests in (1, 32, 256, 1024):
        output, took = _Output(requests), []
        for ordinal in range(2000):
            start = time.perf_counter_ns()
            ring.write(SCHEDULED, *steps.scheduled(ordinal, start, output))
            ring.write(EXECUTED, *steps.executed(ordinal, (start, start), output, 1, 0))
            ring.write(UPDATED, *steps.updated(ordinal, start, output))
            ring.write(FINISHED, *steps.finished(ordinal, start, steps.ended_in({0: output})))
            took.append(time.perf_counter_ns() - start)
        limit = " limit=50" if requests == 256 else ""
        print(
            f"FIGURE gpu.plugin.us_per_step {statistics.median(took) / 1000:.1f} us requests={requests}{limit}",
            flush=True,
        )
    ring.close()
