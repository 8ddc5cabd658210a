"""The edge's link, cut for half an hour: what a collector with the edge's values keeps on disk, and how it drains.

1,000 exchanges a second go through the collector's real way out (an exchange is a span on the wire) while nobody answers at
its endpoint; half way through it is killed, and its next life goes on. Then the link is back, a real correlator answers,
and every row has to be there once. `BENCH_CUT_S` sets another duration.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from tests.faults.rig import ROOT, Rig
from tests.waiting import until
from warpline import schema
from warpline.batch import Batch
from warpline.export import Exporter
from warpline.settings import Settings

CUT_S = int(os.environ.get("BENCH_CUT_S", "1800"))
ROWS_S, BATCH = 1_000, 100
START_NS = 1_764_000_000_000_000_000
VALUES = ROOT / "deploy/helm/warpline/values-edge.yaml"
TABLE = schema.table("http_exchange")


def run(figure: Any) -> None:
    """Print what was kept, for how many bytes, how long the drain took, and what was lost or stored twice."""
    queue_mb = int(yaml.safe_load(VALUES.read_text(encoding="utf-8"))["collector"]["queueMegabytes"])
    with tempfile.TemporaryDirectory() as directory:
        state, rig = Path(directory) / "collector", Rig(Path(directory) / "correlator")
        half = CUT_S // 2 * ROWS_S
        for first, last in ((0, half), (half, CUT_S * ROWS_S)):
            _life(state, rig.url, queue_mb, first, last)
        queued = sum(path.stat().st_size for path in (state / "queue").iterdir())
        rig.start()
        began = time.monotonic()
        exporter = Exporter(_settings(state, rig.url, queue_mb), "edge")
        drained = exporter.close(3600)
        until(lambda: rig.given(TABLE.name) >= CUT_S * ROWS_S or not drained, 1200)
        seconds = time.monotonic() - began
        rig.settle()
        number = rig.client.table(TABLE.name, limit=CUT_S * ROWS_S * 2)["connection_id"].to_numpy()
        rig.terminate()
    sent, distinct = CUT_S * ROWS_S, len(np.unique(number))
    figure("edge.cut.queue_mb", queued / 1e6, "MB", limit=queue_mb, seconds=CUT_S, bytes_per_row=f"{queued / sent:.0f}")
    figure("edge.cut.hours_that_fit", queue_mb * 2**20 / (queued / CUT_S) / 3600, "h", rows_per_s=ROWS_S)
    figure("edge.cut.drain_s", seconds, "s", rows=sent)
    figure("edge.cut.lost", sent - distinct, "{row}", limit=0)
    figure("edge.cut.stored_twice", len(number) - distinct, "{row}", limit=0)


def _settings(state: Path, url: str, queue_mb: int) -> Settings:
    return Settings(state_dir=str(state), collector_endpoint=url, collector_queue_mb=queue_mb, collector_gzip=True)


def _life(state: Path, url: str, queue_mb: int, first: int, last: int) -> None:
    """Let a collector's way out, in a process of its own, take rows, and kill it."""
    words = [sys.executable, "-m", "bench._edge_link", str(state), url, str(queue_mb), str(first), str(last)]
    process = Popen(words, cwd=ROOT, stdout=PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"queued\n"
    process.kill()
    process.communicate()


def emit(state: Path, url: str, queue_mb: int, first: int, last: int) -> None:
    """Hand on rows numbered from `first` at the steady rate, say when all are on disk, and wait to be killed."""
    exporter, began = Exporter(_settings(state, url, queue_mb), "edge"), time.monotonic()
    for number in range(first, last, BATCH):
        time.sleep(max(began + (number - first) / ROWS_S - time.monotonic(), 0))
        exporter.emit(Batch(TABLE, exchanges(np.arange(number, min(number + BATCH, last)))))
    size = -1
    while exporter._pending_rows or size != exporter.spool.bytes:
        size = exporter.spool.bytes
        time.sleep(3 * exporter.settings.collector_batch_delay_s)
    assert not exporter.losses, exporter.losses
    print("queued", flush=True)
    time.sleep(3600)


def exchanges(number: np.ndarray) -> pa.RecordBatch:
    """Rows of streamed answers as the source makes them, told apart by their connection's number."""
    rng = np.random.default_rng(int(number[0]))
    start = START_NS + number * (10**9 // ROWS_S)
    began, streamed = rng.integers(10**6, 10**8, len(number)), rng.integers(10**8, 10**9, len(number))
    chunks = rng.integers(20, 400, len(number))
    return TABLE.batch(
        {
            "start_ns": start, "end_ns": start + began + streamed, "node": "edge", "side": "server", "connection_id": number,
            "ordinal": 0, "process_uid": "edge:12345:678", "protocol": "http/1.1", "method": "POST",
            "path": "/v1/chat/completions", "status": 200, "host": "llm.example.com",
            "trace_id": [rng.bytes(16) for _ in number],
            "response_id": [f"chatcmpl-{rng.bytes(16).hex()}" for _ in number], "request_end_ns": start + 20_000,
            "response_start_ns": start + began, "first_body_ns": start + began + 1000,
            "last_chunk_ns": start + began + streamed, "chunks": chunks,
            "request_bytes": rng.integers(200, 9000, len(number)),
            "response_bytes": chunks * 180, "local_address": "10.42.0.17", "local_port": 8000, "peer_address": "10.42.0.3",
            "peer_port": rng.integers(32768, 60999, len(number)),
        },
        len(number),
    )  # fmt: skip


if __name__ == "__main__":
    emit(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
