"""Kernel rows per second of one core, from the collector's Arrow body to acknowledged, stored, checkpointed and queryable.

CPU time of all threads counts. Beside it, in the same run: DuckDB's plain insert of the same rows from Arrow, a memcpy,
and where the time goes by stage. Then how cost grows with what the store holds, with readers running meanwhile, and what a
backlog costs in memory.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import urllib3

from bench.payloads import requests
from correlator.doors.intake import Intake
from correlator.storage.ingest import Ingest
from correlator.storage.segments import write as write_segment
from correlator.storage.store import Store
from correlator.storage.upkeep import Upkeep
from tests.faults.rig import Rig
from tests.waiting import until
from warpline import otlp, record, schema
from warpline.batch import Batch
from warpline.settings import Settings

KERNEL = schema.table("gpu_kernel")
BATCH_ROWS, BATCHES = 65_536, 32
START_NS = 1_764_000_000_000_000_000
GROWTH = tuple(int(each) for each in os.environ.get("BENCH_GROWTH_ROWS", "1000000,10000000").split(","))
SPAN_ROWS = 8192
BACKLOG_SPANS = 1_000_000
"""The soak's ten minutes at 10 k spans/s are six times this: memory is bounded or it is not, and a sixth shows which."""


def figure(name: str, value: float, unit: str, **keys: Any) -> None:
    print(f"FIGURE {name} {value:.6g} {unit}", *(f"{k}={v}" for k, v in keys.items()), flush=True)


def kernels(number: int, rows: int = BATCH_ROWS) -> pa.RecordBatch:
    """Return executions as an H100 that decodes makes them: 69 names, three streams, microseconds apart."""
    random = np.random.default_rng(number)
    start = START_NS + number * rows * 10_000 + np.cumsum(random.integers(500, 19_500, rows))
    code = random.integers(0, 69, rows).astype(np.int32)
    names = pa.array([f"void cutlass::device_kernel<flash::enable_sm90<tile_{n}, {n % 7}>>" for n in range(69)])
    classes = pa.array(["gemm", "attention", "normalisation", "elementwise", "sampling"])
    columns = {
        "start_ns": start,
        "end_ns": start + random.integers(1_000, 200_000, rows),
        "node": "gpu-node-17",
        "process_uid": "gpu-node-17:12345678901:4711",
        "gpu_uuid": "GPU-5c8f1d02-9c2e-4a0e-9f51-1d3f6a5c7b20",
        "cuda_context": 1,
        "cuda_stream": random.choice([7, 20, 24], rows),
        "session": 0,
        "correlation_id": number * rows + np.arange(rows),
        "name": pa.DictionaryArray.from_arrays(pa.array(code), names),
        "kind": "kernel",
        "kernel_class": pa.DictionaryArray.from_arrays(pa.array((code % 5).astype(np.int32)), classes),
        "step_ordinal": (number * rows + np.arange(rows)) // 300,
    }
    return KERNEL.batch(columns)


def bodies(first: int, count: int, rows: int = BATCH_ROWS) -> Iterator[bytes]:
    """Yield export requests of one batch each."""
    for number in range(first, first + count):
        yield otlp.encode(
            [Batch(KERNEL, kernels(number, rows), f"gpu-node-17/1/{number}")], {"k8s.node.name": "gpu-node-17"}
        )


class Chain:
    """Door's decoding, spool and store of one process, without a socket."""

    def __init__(self, directory: str, table: str = "gpu_kernel") -> None:
        self.table, self._signal = table, "traces" if table == "span" else "logs"
        settings = Settings(state_dir=directory, correlator_memory_limit_mb=2048, correlator_store_delay_s=0.05)
        self.store = Store(settings)
        self.ingest = Ingest(settings, self.store)
        self.intake = Intake(settings, self.ingest)
        self.ingest.start()

    def take(self, body: bytes) -> float:
        """Return the seconds until the body was acknowledged."""
        began = time.perf_counter()
        self.intake.take(self._signal, body, otlp.PROTOBUF)
        return time.perf_counter() - began

    def rows(self) -> int:
        return int(self.store.query(f"SELECT count(*) FROM {self.table}").column(0)[0].as_py())

    def run(self, requests_: list[bytes], rows: int) -> tuple[float, list[float]]:
        """Take requests until all their rows are stored and checkpointed; return CPU seconds and acknowledgement times."""
        before, began = self.rows(), time.process_time()
        acknowledged = [self.take(body) for body in requests_]
        while sum(self.store.rows_written.values()) < before + rows or self.ingest.spool.bytes:
            self.ingest.checkpoint_now.set()
            time.sleep(0.005)
        return time.process_time() - began, acknowledged

    def close(self) -> None:
        self.ingest.close(60)
        self.store.close()


def run() -> None:
    """Print all figures of this group."""
    references()
    stages()
    throughput()
    growth()
    backlog()


def references() -> None:
    """What bounds it: DuckDB's own insert of the same rows, and moving bytes at all."""
    rows = pa.Table.from_batches([kernels(n) for n in range(16)])
    with tempfile.TemporaryDirectory() as directory:
        connection = duckdb.connect(f"{directory}/plain.duckdb")
        for statement in KERNEL.ddl():
            connection.execute(statement)
        connection.register("incoming", rows)
        began = time.process_time()
        connection.execute("INSERT INTO gpu_kernel SELECT * FROM incoming")
        connection.execute("CHECKPOINT")
        spent = time.process_time() - began
        size = Path(directory, "plain.duckdb").stat().st_size / rows.num_rows
        connection.close()
    figure("ingest.duckdb_insert.rows_per_core_s", rows.num_rows / spent, "{row}/s", bytes_per_row=f"{size:.1f}")


def stages() -> None:
    """Where the time goes, ns a row by stage."""
    body = next(bodies(0, 1))
    batch = otlp.decode("logs", body).batches[0]
    rows = pa.Table.from_batches([kernels(n) for n in range(8)])

    def segment() -> None:
        with tempfile.TemporaryDirectory() as directory:
            write_segment(Path(directory), "gpu_kernel-1.parquet", KERNEL, rows, ["a"])

    work: dict[str, tuple[Callable[[], object], int]] = {
        "decode": (lambda: otlp.decode("logs", body), BATCH_ROWS),
        "spool_pack": (lambda: record.pack(batch), BATCH_ROWS),
        "validate": (lambda: batch.rows.validate(full=True), BATCH_ROWS),
        "segment": (segment, rows.num_rows),
    }
    for name, (each, count) in work.items():
        spent = min(_cpu(each) for _ in range(7))
        figure(f"ingest.stage.{name}_ns_per_row", spent / count * 1e9, "ns")

    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(state_dir=directory)
        store = Store(settings)
        for number in range(8):
            store.write([Batch(KERNEL, kernels(number), f"a/1/{number}")])
        (day,) = store.days.values()
        upkeep = Upkeep(settings, store)
        spent = _cpu(lambda: upkeep.merge(day, KERNEL, list(day.segments.values())))
        (merged,) = day.segments.values()
        store.close()
    # Later, in the background, once for each row and again for each sixteenfold: reads are what it is for.
    size = merged.bytes / merged.rows
    figure("ingest.stage.merge_ns_per_row", spent / merged.rows * 1e9, "ns", bytes_per_row=f"{size:.1f}")


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def throughput() -> None:
    """The promise: rows per second of a core, and what they take on disk."""
    requests_ = list(bodies(0, BATCHES))
    rates, sizes, waits = [], [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as directory:
            chain = Chain(directory)
            spent, acknowledged = chain.run(requests_, BATCHES * BATCH_ROWS)
            rates.append(BATCHES * BATCH_ROWS / spent)
            sizes.append(chain.store.bytes / chain.rows())
            waits += acknowledged
            chain.close()
    ordered = sorted(waits)
    figure("ingest.batch.rows_per_core_s", max(rates), "{row}/s", limit=1_500_000, batch_rows=BATCH_ROWS)
    figure("ingest.batch.stored_bytes_per_row", statistics.median(sizes), "By", limit=30)
    p50, p99 = (ordered[int(len(ordered) * q)] * 1000 for q in (0.5, 0.99))
    figure("ingest.batch.ack_p99_ms", p99, "ms", p50=f"{p50:.3g}", rows=BATCH_ROWS)


def growth() -> None:
    """How cost grows with what is stored: batches and spans, alone, then while a reader reads; merged as upkeep does."""
    for table, made, rows in (("gpu_kernel", _kernel_bodies, BATCH_ROWS), ("span", _span_bodies, SPAN_ROWS)):
        with tempfile.TemporaryDirectory() as directory:
            chain, held = Chain(directory, table), 0
            upkeep = Upkeep(Settings(state_dir=directory, correlator_retention_days=0), chain.store)
            for wanted in GROWTH:
                while held < wanted:
                    chain.run(made(held, 16 * BATCH_ROWS), 16 * BATCH_ROWS)
                    held += 16 * BATCH_ROWS
                    upkeep.run_once()
                for reading in (False, True):
                    _grown(chain, made(held, 16 * BATCH_ROWS), held, rows, reading)
                    held += 16 * BATCH_ROWS
            chain.close()


def _grown(chain: Chain, bodies_: list[bytes], held: int, batch_rows: int, reading: bool) -> None:
    stop, read = threading.Event(), [0.0]
    reader = threading.Thread(target=_read, args=(chain.store, chain.table, stop, read), daemon=True)
    if reading:
        reader.start()
    spent, acknowledged = chain.run(bodies_, len(bodies_) * batch_rows)
    stop.set()
    keys = {"table": chain.table, "stored": held, "reading": int(reading)}
    if not reading:  # Else the reader's time is in it.
        figure("ingest.grown_rows_per_core_s", len(bodies_) * batch_rows / spent, "{row}/s", **keys)
    p99 = statistics.quantiles(acknowledged, n=100)[98]
    figure("ingest.grown_ack_p99_ms", p99 * 1000, "ms", **keys, batch_rows=batch_rows)
    if reading:
        reader.join()
        figure(
            "ingest.grown_read_p50_ms", statistics.median(read[1:] or read) * 1000, "ms", **keys, reads=len(read) - 1
        )


def _kernel_bodies(held: int, rows: int) -> list[bytes]:
    return list(bodies(held // BATCH_ROWS, rows // BATCH_ROWS))


def _span_bodies(held: int, rows: int) -> list[bytes]:
    return list(requests("mixed", SPAN_ROWS, rows // SPAN_ROWS, seed=held, begin=held // SPAN_ROWS))


def _read(store: Store, table: str, stop: threading.Event, taken: list[float]) -> None:
    """Read what a page reads: ten thousand rows of a tenth of a second of one table."""
    while not stop.is_set():
        began = time.perf_counter()
        store.view(table, {"since_ns": START_NS, "until_ns": START_NS + 10**8, "limit": 10_000}).read_all()
        taken.append(time.perf_counter() - began)
        time.sleep(0.01)


def backlog() -> None:
    """The store stands still while spans come: memory is bounded by the setting, and all is stored afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        limit_mb = 512
        rig = Rig(Path(directory) / "state", correlator_memory_limit_mb=limit_mb)
        rig.start(correlator_store_delay_s=3600)
        assert rig.process is not None
        process = psutil.Process(rig.process.pid)
        pool, peak, sent = urllib3.PoolManager(), 0, 0
        for body in requests("promoted", 8192, BACKLOG_SPANS // 8192):
            answer = pool.request("POST", f"{rig.url}/v1/traces", body=body, headers={"content-type": otlp.PROTOBUF})
            assert answer.status == 200, answer.data
            sent += 8192
            peak = max(peak, process.memory_info().rss)
        pool.clear()
        figure("correlator.backlog_rss_mb", peak / 1e6, "MB", limit=limit_mb, spans=sent)
        rig.kill()
        rig.start()
        began = time.monotonic()
        until(lambda: rig.given("span") == sent, 300)
        figure("correlator.backlog_drain_s", time.monotonic() - began, "s", spans=sent)
        rig.terminate()
