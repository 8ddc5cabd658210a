"""OTLP spans per second of one core: parsed, decoded, acknowledged, stored; beside what bounds them and what is usual.

All of it runs on one core, as two that share caches count a third more CPU time for the same work. CPU time of all threads
of the process counts, CHECKPOINT included. `upb` is protobuf's own parse of the same bytes in the same run: it makes
objects and stores nothing. `plain` is what a service would do first: a loop over upb's objects, attributes as JSON, and a
DuckDB commit for each request.
"""

from __future__ import annotations

import gc
import http.client
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.payloads import PAYLOADS, requests
from correlator.doors.receive import Receiver
from correlator.storage import segments, spans
from correlator.storage.ingest import Ingest
from correlator.storage.parts import split
from correlator.storage.store import Store
from warpline import otlp, record, schema
from warpline.otlp import scanner
from warpline.settings import Settings

SPAN = schema.table("span")
BATCHES = (8192, 512)
WARM_SPANS, STORED_SPANS = 655_360, 524_288
"""Spans that are stored before the clock starts, so that what is measured is not how a process begins, and after."""
SENDERS = {8192: 4, 512: 16}
"""Requests that are taken at once, as from so many connections: they share the waits for the disk, small ones all else."""
ROTEL, COLLECTOR = 462_000, 137_000  # Published by their makers, spans/s of a core.


def figure(name: str, value: float, unit: str, **keys: Any) -> None:
    print(f"FIGURE {name} {value:.6g} {unit}", *(f"{k}={v}" for k, v in keys.items()), flush=True)


def per_core_s(work: Callable[[], object], rows: int, seconds: float = 1.0) -> float:
    """Rows per second of CPU time, the best of repeats: the machine may be shared."""
    best, until = 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.process_time()
        work()
        best = max(best, rows / (time.process_time() - began))
    return best


def run() -> None:
    """Print all figures of this group."""
    gc.collect()
    gc.freeze()  # As `warpline correlate` does.
    figure("ingest.scanner.built", float(scanner.available()), "1")
    with _one_core():
        memory = np.zeros(64 << 20, np.uint8)
        copied = per_core_s(lambda: memory.copy(), memory.nbytes)
        figure("ingest.memcpy.bytes_per_core_s", copied, "By/s")
        for payload in PAYLOADS:
            for batch in BATCHES:
                upb = _decoding(payload, batch, next(requests(payload, batch, 1)))
                _storing(payload, batch, upb)
                _stages(payload, batch)
        _plain()
        _raw_insert()
    _door()


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this thread, and those that it starts, on one core meanwhile."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _decoding(payload: str, batch: int, body: bytes) -> float:
    keys = {"payload": payload, "batch": batch, "bytes_per_span": len(body) // batch}
    upb = per_core_s(lambda: ExportTraceServiceRequest.FromString(body), batch)
    figure("ingest.upb_parse.spans_per_core_s", upb, "{span}/s", **keys)
    fast = per_core_s(lambda: otlp.decode("traces", body), batch)
    rate = {"bytes_per_core_s": f"{fast * len(body) / batch:.3g}"}
    figure("ingest.decode.spans_per_core_s", fast, "{span}/s", vs_upb_ratio=f"{fast / upb:.3g}", **keys, **rate)
    slow = per_core_s(lambda: otlp.decode("traces", body, fast=False), batch)
    figure("ingest.decode_fallback.spans_per_core_s", slow, "{span}/s", vs_upb_ratio=f"{slow / upb:.3g}", **keys)
    return upb


@contextmanager
def opened(**more: Any) -> Iterator[tuple[Settings, Store, Ingest]]:
    with tempfile.TemporaryDirectory(prefix="warpline-bench-") as folder:
        asked = {"correlator_http_address": "127.0.0.1:0", "correlator_grpc_address": "127.0.0.1:0", "node": "bench"}
        settings = Settings(state_dir=folder, correlator_retention_days=0, **(asked | more))
        store = Store(settings)
        ingest = Ingest(settings, store)
        ingest.start()
        try:
            yield settings, store, ingest
        finally:
            ingest.close()
            store.close()


def _storing(payload: str, batch: int, upb: float) -> None:
    """Bodies through decode, spool and store; the clock stops when all spans are queryable and the spool is released."""
    bodies = list(requests(payload, batch, (WARM_SPANS + STORED_SPANS) // batch))
    with opened() as (settings, store, ingest), ThreadPoolExecutor(SENDERS[batch]) as senders:
        receiver = Receiver(settings, ingest)

        def take(body: bytes) -> float:
            sent = time.perf_counter()
            with receiver.intake.room(len(body)):
                receiver.intake.take("traces", body, otlp.PROTOBUF)
            return time.perf_counter() - sent

        list(senders.map(take, bodies[: WARM_SPANS // batch]))
        _until_stored(store, WARM_SPANS)
        began, cpu = time.monotonic(), time.process_time()
        delays = list(senders.map(take, bodies[WARM_SPANS // batch :]))
        _until_stored(store, WARM_SPANS + STORED_SPANS)
        store.checkpoint()
        cpu, wall = time.process_time() - cpu, time.monotonic() - began
        size = store.bytes
        receiver.start()
        receiver.close()
    rate = STORED_SPANS / cpu
    keys = {
        "payload": payload,
        "batch": batch,
        "limit": 1_000_000 if batch > 512 else 500_000,
        "senders": SENDERS[batch],
    }
    peers = {"vs_rotel_published": f"{rate / ROTEL:.3g}", "vs_collector_published": f"{rate / COLLECTOR:.3g}"}
    bytes_per_core_s = f"{rate * len(bodies[0]) / batch:.3g}"
    more = {"bytes_per_core_s": bytes_per_core_s, "wall_per_s": f"{STORED_SPANS / wall:.3g}"}
    figure("ingest.spans.per_core_s", rate, "{span}/s", **keys, **more, **peers)
    figure("ingest.spans.vs_upb_ratio", rate / upb, "1", payload=payload, batch=batch, limit=0.35)
    held = WARM_SPANS + STORED_SPANS
    figure("ingest.spans.stored_bytes_per_row", size / held, "By", payload=payload, batch=batch)
    p99 = statistics.quantiles(delays, n=100)[98]
    figure("ingest.spans.acknowledged_p99_ms", p99 * 1e3, "ms", payload=payload, batch=batch, senders=SENDERS[batch])


def _stages(payload: str, batch: int) -> None:
    """Where the time goes, ns a span by stage, each by itself and warm: the rest is disk, misses and waits."""
    bodies = list(requests(payload, batch, 65_536 // batch))
    batches = [otlp.decode("traces", body).batches[0] for body in bodies]
    parts = [part for _, part in split(SPAN, batches)]
    rows = pa.concat_tables([part.rows for part in parts])
    seen = spans.SeenSpans()

    def segment() -> None:
        with tempfile.TemporaryDirectory() as folder:
            segments.write(Path(folder), "span-1.parquet", SPAN, rows, ["a"])

    work: dict[str, Callable[[], object]] = {
        "digest": lambda: [scanner.digest(body) for body in bodies],
        "decode": lambda: [otlp.decode("traces", body) and None for body in bodies],
        "spool_pack": lambda: [record.pack(each) and None for each in batches],
        "split": lambda: list(split(SPAN, batches)),
        "known": lambda: seen.add(rows),
        "segment": segment,
    }
    for name, each in work.items():
        spent = rows.num_rows / per_core_s(each, rows.num_rows, 0.5)
        figure(f"ingest.stage.{name}_ns_per_span", spent / rows.num_rows * 1e9, "ns", payload=payload, batch=batch)


def _until_stored(store: Store, rows: int, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while store.rows_written["span"] < rows:
        if time.monotonic() > until:
            raise RuntimeError(f"{store.rows_written['span']} of {rows} spans stored in {seconds} s")
        time.sleep(0.02)


def _plain() -> None:
    """The usual first way: a loop over protobuf's objects, attributes as JSON, a commit for each request."""
    bodies = list(requests("mixed", 8192, 3))
    upb = per_core_s(lambda: ExportTraceServiceRequest.FromString(bodies[0]), 8192)
    with (
        tempfile.TemporaryDirectory(prefix="warpline-bench-") as folder,
        duckdb.connect(f"{folder}/plain.db") as database,
    ):
        database.execute(
            "CREATE TABLE span (trace_id BLOB, span_id BLOB, name VARCHAR, start_ns UBIGINT, end_ns UBIGINT, "
            "attributes JSON)"
        )
        cpu = time.process_time()
        for body in bodies:
            rows = _plain_rows(body)
            database.execute("INSERT INTO span SELECT * FROM rows")
            assert rows.num_rows == 8192
        database.execute("CHECKPOINT")
        rate = len(bodies) * 8192 / (time.process_time() - cpu)
    figure("ingest.plain_python.spans_per_core_s", rate, "{span}/s", payload="mixed", vs_upb_ratio=f"{rate / upb:.3g}")


def _plain_rows(body: bytes) -> pa.Table:
    rows = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
                times = span.start_time_unix_nano, span.end_time_unix_nano
                rows.append((span.trace_id, span.span_id, span.name, *times, json.dumps(attributes)))
    names = ["trace_id", "span_id", "name", "start_ns", "end_ns", "attributes"]
    return pa.table(list(map(list, zip(*rows, strict=True))), names=names)


def _raw_insert() -> None:
    """DuckDB's own insert of the decoded columns, nothing else: what the store cannot beat."""
    batches = [otlp.decode("traces", body).batches[0] for body in requests("promoted", 8192, 16)]
    rows = pa.Table.from_batches([batch.rows for batch in batches])
    with (
        tempfile.TemporaryDirectory(prefix="warpline-bench-") as folder,
        duckdb.connect(f"{folder}/raw.db") as database,
    ):
        for statement in batches[0].table.ddl():
            database.execute(statement)
        cpu = time.process_time()
        database.execute("INSERT INTO span SELECT * FROM rows")
        database.execute("CHECKPOINT")
        rate = 16 * 8192 / (time.process_time() - cpu)
    figure("ingest.duckdb_insert.spans_per_core_s", rate, "{span}/s", payload="promoted", columns=len(rows.schema))


def _door(batch: int = 8192, count: int = 24) -> None:
    """The same through the HTTP door, sent by another process over four connections."""
    bodies = list(requests("promoted", batch, count))
    context = multiprocessing.get_context("fork")  # Before there are threads: each sender has its bodies already.
    lanes = [context.Pipe() for _ in range(4)]
    senders = [context.Process(target=_send, args=(bodies[i::4], lanes[i][1])) for i in range(4)]
    for sender in senders:
        sender.start()
    with opened() as (settings, store, ingest):
        receiver = Receiver(settings, ingest)
        receiver.start()
        cpu = time.process_time()
        for mine, _ in lanes:
            mine.send(receiver.http_address)
        delays = [delay for mine, _ in lanes for delay in mine.recv()]
        _until_stored(store, batch * count)
        store.checkpoint()
        cpu = time.process_time() - cpu
        for sender in senders:
            sender.join()
        receiver.close()
    figure(
        "ingest.door.spans_per_core_s", batch * count / cpu, "{span}/s", payload="promoted", batch=batch, door="http"
    )
    figure("ingest.door.acknowledged_p50_ms", statistics.median(delays) * 1e3, "ms", connections=4)
    figure("ingest.door.acknowledged_p99_ms", statistics.quantiles(delays, n=100)[98] * 1e3, "ms", connections=4)


def _send(bodies: list[bytes], lane: Any) -> None:
    connection, delays = http.client.HTTPConnection(lane.recv(), timeout=60), []
    for body in bodies:
        began = time.perf_counter()
        connection.request("POST", "/v1/traces", body, {"Content-Type": otlp.PROTOBUF})
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        delays.append(time.perf_counter() - began)
    connection.close()
    lane.send(delays)
