"""What the tests of the doors share: doors on free ports with an ingest that keeps all in memory, and requests to send."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from correlator.doors.receive import Receiver
from warpline.batch import Batch
from warpline.errors import StoreError
from warpline.settings import Settings

NOW = 1_764_000_000_000_000_000


class Busy(StoreError):
    """Says that nothing can be taken now, as `correlator.storage.ingest` does."""

    retry_after_s = 1.5


class Kept:
    """An ingest in memory: each batch id once, as the store does it."""

    def __init__(self) -> None:
        self.batches: dict[str, Batch] = {}
        self.accepted: list[str] = []
        self.busy = False
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def accept(self, batches: Sequence[Batch]) -> None:
        self.gate.wait(20)
        if self.error is not None:
            raise self.error
        if self.busy:
            raise Busy("the spool is full")
        for batch in batches:
            self.accepted.append(batch.batch_id)
            self.batches.setdefault(batch.batch_id, batch)

    def rows(self, table: str) -> list[dict[str, Any]]:
        return [row for b in list(self.batches.values()) if b.table.name == table for row in b.rows.to_pylist()]


@contextmanager
def open_doors(**settings: Any) -> Iterator[tuple[Receiver, Kept]]:
    kept = Kept()
    asked = {"correlator_http_address": "127.0.0.1:0", "correlator_grpc_address": "127.0.0.1:0", "node": "node-a"}
    receiver = Receiver(Settings(**(asked | settings)), kept)
    receiver.start()
    try:
        yield receiver, kept
    finally:
        kept.gate.set()
        receiver.close(5.0)


def trace_request(count: int = 1, name: str = "chat", seed: int = 1) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "api"
    spans = resource.scope_spans.add().spans
    for i in range(count):
        span = spans.add(name=name, kind=2, start_time_unix_nano=NOW + i, end_time_unix_nano=NOW + i + 1000)
        span.trace_id = (seed * 1_000_003 + 1).to_bytes(16, "big")
        span.span_id = (seed * 1_000_003 + i + 1).to_bytes(8, "big")
    return request
