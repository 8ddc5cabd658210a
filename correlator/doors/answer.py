"""What a door answers: OTLP's responses and errors, in the request's encoding."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from warpline import otlp
from warpline.otlp import Decoded, Signal

_RESPONSES: dict[Signal, tuple[type[Any], str, str]] = {
    "traces": (ExportTraceServiceResponse, "rejected_spans", "rejectedSpans"),
    "metrics": (ExportMetricsServiceResponse, "rejected_data_points", "rejectedDataPoints"),
    "logs": (ExportLogsServiceResponse, "rejected_log_records", "rejectedLogRecords"),
}

TEXT = "text/plain"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status with its body."""

    status: int
    body: bytes = b""
    content_type: str = otlp.PROTOBUF
    retry_after_s: float = 0.0
    close: bool = False


def success(signal: Signal, decoded: Decoded) -> bytes:
    """Return the protobuf response: empty, or a partial success that says how many records were refused and why."""
    kind, field, _ = _RESPONSES[signal]
    response = kind()
    if decoded.rejected:
        setattr(response.partial_success, field, decoded.rejected)
        response.partial_success.error_message = decoded.message
    return bytes(response.SerializeToString())


def success_json(signal: Signal, decoded: Decoded) -> bytes:
    """Return the same in OTLP/JSON, where 64-bit numbers are texts."""
    if not decoded.rejected:
        return b"{}"
    _, _, field = _RESPONSES[signal]
    return json.dumps({"partialSuccess": {field: str(decoded.rejected), "errorMessage": decoded.message}}).encode()


def failure(code: int, sentence: str, content_type: str) -> bytes:
    """Return a google.rpc.Status as protobuf or JSON."""
    if content_type == otlp.JSON:
        return json.dumps({"code": code, "message": sentence}).encode()
    return bytes(Status(code=code, message=sentence).SerializeToString())


INVALID, EXHAUSTED = code_pb2.INVALID_ARGUMENT, code_pb2.RESOURCE_EXHAUSTED
UNAVAILABLE, INTERNAL, UNAUTHENTICATED = code_pb2.UNAVAILABLE, code_pb2.INTERNAL, code_pb2.UNAUTHENTICATED
