"""Recordings in and out: MB/s, rows/s and peak memory of import and export, beside parsing or scanning alone.

The files are synthetic (a loop of realistic events, about 400 bytes each, as Kineto writes them): what is measured is the
readers, not a GPU. `cpu_ratio` is their CPU time over that of parsing or scanning alone: a busy machine changes it less.
Each measurement runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MEGABYTES = int(os.environ.get("BENCH_RECORDING_MB", "250"))
NSYS_KERNELS = 500_000
LIMIT_MB = 1024

_NAMES = [f"void cutlass::Kernel2<cutlass_80_tensorop_bf16_gemm_relu_{n}x64_64x6_tn_align8>(Params)" for n in range(40)]
_PROBE = """
import json, resource, sys, time
from pathlib import Path
began, cpu = time.perf_counter(), time.process_time()
rows = {call}
seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
print(json.dumps([seconds, cpu, rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
_READ = "__import__('bench.recordings', fromlist=['x']).read_all({module!r}, Path({path!r}))"
_PARSE = "__import__('gc').disable() or len(__import__('orjson').loads(Path({path!r}).read_bytes())['traceEvents'])"
_SCAN = "__import__('bench.recordings', fromlist=['x']).scan(Path({path!r}))"


def run() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory(prefix="warpline-bench-") as directory:
        kineto, nsys = Path(directory) / "kineto.json", Path(directory) / "nsys.sqlite"
        write_kineto(kineto, MEGABYTES << 20)
        size = kineto.stat().st_size / 1e6
        alone, alone_cpu, events, alone_mb = probe(_PARSE.format(path=str(kineto)))
        seconds, cpu, rows, peak = probe(_READ.format(module="kineto", path=str(kineto)))
        note, ratio = f"synthetic=true file_mb={size:.0f} events={events}", f"cpu_ratio={cpu / alone_cpu:.2f}"
        print(
            f"FIGURE recordings.kineto.mb_per_s {size / seconds:.1f} MB/s orjson_alone={size / alone:.1f} {ratio} {note}"
        )
        print(f"FIGURE recordings.kineto.rows_per_s {rows / seconds:.0f} rows/s {note}")
        print(f"FIGURE recordings.kineto.peak_mb {peak:.0f} MB limit={LIMIT_MB} orjson_alone={alone_mb:.0f} {note}")
        write_nsys(nsys, NSYS_KERNELS)
        size = nsys.stat().st_size / 1e6
        alone, alone_cpu, _, alone_mb = probe(_SCAN.format(path=str(nsys)))
        seconds, cpu, rows, peak = probe(_READ.format(module="nsys", path=str(nsys)))
        note, ratio = f"synthetic=true file_mb={size:.0f} kernels={NSYS_KERNELS}", f"cpu_ratio={cpu / alone_cpu:.2f}"
        print(f"FIGURE recordings.nsys.mb_per_s {size / seconds:.1f} MB/s scan_alone={size / alone:.1f} {ratio} {note}")
        print(f"FIGURE recordings.nsys.rows_per_s {rows / seconds:.0f} rows/s {note}")
        print(f"FIGURE recordings.nsys.peak_mb {peak:.0f} MB limit={LIMIT_MB} scan_alone={alone_mb:.0f} {note}")
        small = Path(directory) / "small.json"
        write_kineto(small, 60 << 20)
        seconds, size_out, events_out = export_of(small)
        note = f"synthetic=true events={events_out}"
        print(f"FIGURE recordings.export.mb_per_s {size_out / 1e6 / seconds:.1f} MB/s {note}")
        print(f"FIGURE recordings.export.events_per_s {events_out / seconds:.0f} events/s {note}")


def probe(call: str) -> tuple[float, float, int, float]:
    """Run an expression in a process of its own; return its seconds, of CPU too, its count, and its peak memory in MiB."""
    done = subprocess.run([sys.executable, "-c", _PROBE.format(call=call)], capture_output=True, text=True, check=True)
    seconds, cpu, rows, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, cpu, rows, peak


def read_all(module: str, path: Path) -> int:
    """Read a recording and return its rows."""
    import importlib

    from warpline.clock import NodeClock
    from warpline.settings import Settings
    from warpline.source import Context

    with tempfile.TemporaryDirectory() as state:
        context = Context(module, "bench", Settings(), NodeClock(Path(state)), lambda batch: None)
        return sum(batch.rows.num_rows for batch in importlib.import_module(f"collectors.{module}").read(path, context))


def scan(path: Path) -> int:
    """Read the two large tables of an export into Python and return their rows."""
    database = sqlite3.connect(path)
    tables = ("CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME")
    return sum(sum(1 for _ in database.execute(f"SELECT * FROM {table}")) for table in tables)


def export_of(path: Path) -> tuple[float, int, int]:
    """Import a file into a store and write it out as a trace; return the export's seconds, bytes and events."""
    import dataclasses

    from collectors import kineto
    from correlator.storage.store import Store
    from correlator.timeline import perfetto, timeline_scope
    from warpline.clock import NodeClock
    from warpline.settings import Settings
    from warpline.source import Context

    with tempfile.TemporaryDirectory() as state:
        context = Context("kineto", "bench", Settings(), NodeClock(Path(state)), lambda batch: None)
        store = Store(Settings(state_dir=state))
        batches: list[Any] = [
            dataclasses.replace(batch, batch_id=f"b/{n}") for n, batch in enumerate(kineto.read(path, context))
        ]
        store.write(batches)
        scope = timeline_scope.find(store, {"recording": batches[-1].rows["recording_uid"][0].as_py()})
        began = time.perf_counter()
        counted = _Counted(perfetto.trace(store, scope))
        for _ in perfetto.compressed(counted):
            pass  # As a client would: every compressed piece is made, and let go.
        seconds = time.perf_counter() - began
        store.close()
        return seconds, counted.size, counted.events


class _Counted:
    """Passes pieces on, counting bytes and events."""

    def __init__(self, pieces: Any) -> None:
        self._pieces, self.size, self.events = pieces, 0, 0

    def __iter__(self) -> Any:
        for piece in self._pieces:
            self.size += len(piece)
            self.events += piece.count(b'{"ph":')
            yield piece


def write_kineto(path: Path, size: int) -> None:
    """Write a trace of about `size` bytes: per launch one operator, one runtime call, one kernel, two arrows."""
    with path.open("w") as file:
        file.write('{\n  "schemaVersion": 1,\n  "baseTimeNanoseconds": 1767189312000000000,\n  "traceEvents": [\n')
        number = written = 0
        while written < size:
            block = ",\n".join(_step(number + n) for n in range(500))
            written += file.write((",\n" if number else "") + block)
            number += 500
        file.write('\n  ],\n  "traceName": "synthetic"\n}\n')


def _step(n: int) -> str:
    ts = 4_203_669_000_000 + n * 12
    return f"""  {{
    "ph": "X", "cat": "cpu_op", "name": "aten::linear", "pid": 4242, "tid": 4242,
    "ts": {ts}.125, "dur": 9.250,
    "args": {{
      "External id": {n},"Record function id": 0, "Input Dims": [[32, 4096], [4096, 4096], []], "Ev Idx": {n}
    }}
  }},
  {{
    "ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 4242, "tid": 4242,
    "ts": {ts + 2}.500, "dur": 3.875,
    "args": {{
      "External id": {n}, "cbid": 211, "correlation": {n + 1}
    }}
  }},
  {{
    "ph": "s", "id": {n + 1}, "pid": 4242, "tid": 4242, "ts": {ts + 2}.500,
    "cat": "ac2g", "name": "ac2g"
  }},
  {{
    "ph": "X", "cat": "kernel", "name": "{_NAMES[n % len(_NAMES)]}", "pid": 0, "tid": 7,
    "ts": {ts + 8}.001, "dur": 8.832,
    "args": {{
      "External id": {n}, "queued": 0, "device": 0, "context": 1, "stream": 7, "correlation": {n + 1},
      "registers per thread": 168, "shared memory": 102400, "blocks per SM": 1.5, "warps per SM": 12,
      "grid": [64, 4, 1], "block": [256, 1, 1], "est. achieved occupancy %": 19
    }}
  }},
  {{
    "ph": "f", "id": {n + 1}, "pid": 0, "tid": 7, "ts": {ts + 8}.001, "cat": "ac2g", "name": "ac2g", "bp": "e"
  }}"""


def write_nsys(path: Path, kernels: int) -> None:
    """Write an export with `kernels` kernels, each with its launch."""
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE StringIds (id INTEGER, value TEXT); CREATE TABLE META_DATA_EXPORT (name TEXT, value TEXT);"
        "CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER);"
        "INSERT INTO TARGET_INFO_SESSION_START_TIME VALUES (1779630014975716426);"
        "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start, end, globalTid, correlationId, nameId, returnValue);"
        "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start, end, deviceId, contextId, streamId, correlationId, globalPid,"
        " demangledName, shortName, gridX, gridY, gridZ, blockX, blockY, blockZ, registersPerThread);"
    )
    database.executemany("INSERT INTO StringIds VALUES (?, ?)", [(0, "cudaLaunchKernel_v7000"), *enumerate(_NAMES, 1)])
    process = 4242 << 24
    calls = ((n * 10, n * 10 + 4, process | 4243, n, 0, 0) for n in range(1, kernels + 1))
    database.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, ?, ?)", calls)
    executions = (
        (n * 10 + 5, n * 10 + 13, 0, 1, 7, n, process, n % 40 + 1, n % 40 + 1, 64, 4, 1, 256, 1, 1, 168)
        for n in range(1, kernels + 1)
    )
    database.executemany(f"INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES ({','.join('?' * 16)})", executions)
    database.commit()
    database.close()
