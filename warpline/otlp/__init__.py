"""Batches ⇄ OTLP: the only package that knows the wire form."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from warpline.batch import Batch
from warpline.otlp import jsonform, limits, logs, metrics, scanner, traces
from warpline.otlp.arrow import MAX_BODY_BYTES, encode
from warpline.otlp.records import REDACTED, Decoded, Malformed, Request
from warpline.otlp.values import Redaction, read_attributes

Signal = Literal["traces", "metrics", "logs"]

PROTOBUF, JSON = "application/x-protobuf", "application/json"

_LARGE_BYTES = 1 << 20
_one_large = threading.Lock()
"""Large requests that Python reads message by message are read one after the other: a hostile one takes 50 bytes of memory
for each of its own, and as they hold Python's lock all the while, it takes no longer so."""

_KINDS: dict[Signal, tuple[type[Any], Any]] = {
    "traces": (ExportTraceServiceRequest, traces.spans),
    "metrics": (ExportMetricsServiceRequest, metrics.points),
    "logs": (ExportLogsServiceRequest, logs.records),
}


def decode(
    signal: Signal,
    body: bytes,
    content_type: str = PROTOBUF,
    keep_content: bool = False,
    now_ns: int | None = None,
    fast: bool = True,
) -> Decoded:
    """Return the batches in an export request of `signal`, with what of it was refused or dropped.

    `now_ns` (Unix time) stands in where a record has no time. A foreign batch's id is a hash of the body, so that a request
    that is sent again is stored once. `fast` lets the scanner in C read what it can. Raises Malformed, with a sentence,
    for a body that is not OTLP in `content_type`.
    """
    kind, read = _KINDS[signal]
    request = Request(time.time_ns() if now_ns is None else now_ns, Redaction(keep_content))
    batches = scanner.scan(signal, [body], request) if fast and content_type == PROTOBUF else None
    if batches is None:
        with _one_large if len(body) > _LARGE_BYTES else nullcontext():
            batches = read(_parsed(kind, body, content_type), request)
    outcome = request.outcome
    outcome.batches = _named([limits.without_large(batch, outcome) for batch in batches], body)
    outcome.lost(REDACTED, request.redaction.count)
    return outcome


def decode_together(bodies: Sequence[bytes], keep_content: bool = False, now_ns: int | None = None) -> Decoded | None:
    """Return what several protobuf requests of spans hold, as one batch; None where each has to be decoded by itself.

    That is so where the scanner is not sure of all of them, where something was refused, of which its sender alone is to be
    told, and where a span has no time: sent again it has another, and is known by its own request's name only.
    """
    request = Request(time.time_ns() if now_ns is None else now_ns, Redaction(keep_content))
    batches = scanner.scan("traces", bodies, request)
    outcome = request.outcome
    if batches is not None:
        batches = [limits.without_large(batch, outcome) for batch in batches]
    if batches is None or outcome.rejected or request.untimed:
        return None
    outcome.batches = _named(batches, "".join(map(scanner.digest, bodies)).encode())
    outcome.lost(REDACTED, request.redaction.count)
    return outcome


def _parsed(kind: type[Any], body: bytes, content_type: str) -> Any:
    if content_type == JSON:
        limits.check_json(body)
        message = jsonform.read(body, kind)
    else:
        limits.check(body)
        try:
            message = kind.FromString(body)
        except DecodeError as error:
            raise Malformed(f"body is not a protobuf {kind.DESCRIPTOR.name}: {str(error)[:200]}; send OTLP") from None
    limits.check_blocks(message)
    return message


def _named(batches: list[Batch], body: bytes) -> list[Batch]:
    digest = ""
    named = []
    for batch in batches:
        if not batch.batch_id:
            digest = digest or scanner.digest(body)
            batch = replace(batch, batch_id=f"{digest}/{batch.table.name}")
        named.append(batch)
    return named


__all__ = [
    "JSON",
    "MAX_BODY_BYTES",
    "PROTOBUF",
    "REDACTED",
    "Decoded",
    "Malformed",
    "Signal",
    "decode",
    "decode_together",
    "encode",
    "read_attributes",
]
