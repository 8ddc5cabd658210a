"""Nothing in OTLP is dropped silently: every field of every message changes what is stored when it changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from warpline import otlp
from warpline.otlp import Signal

NOW = 1_764_000_000_000_000_000
KINDS: dict[Signal, type[Any]] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}
Path = tuple[FieldDescriptor, ...]


def leaves(descriptor: Descriptor, prefix: Path = ()) -> Iterator[Path]:
    """Every way to a scalar field; a value in a value is entered once."""
    for field in descriptor.fields:
        path = (*prefix, field)
        if field.message_type is None:
            yield path
        elif sum(each.message_type is field.message_type for each in prefix) < 2:
            yield from leaves(field.message_type, path)


def shown(path: Path) -> str:
    return ".".join(field.name for field in path)


CASES = [(signal, path) for signal, kind in KINDS.items() for path in leaves(kind.DESCRIPTOR)]


def values(field: FieldDescriptor) -> tuple[Any, Any]:
    if field.name.endswith("time_unix_nano"):
        return NOW + 1, NOW + 2
    if field.type == FieldDescriptor.TYPE_BYTES:
        size = {"trace_id": 16}.get(field.name, 8)
        return bytes([1] * size), bytes([2] * size)
    if field.type == FieldDescriptor.TYPE_STRING:
        return "one", "two"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return False, True
    return (1.5, 2.5) if field.type == FieldDescriptor.TYPE_DOUBLE else (1, 2)


def request_with(signal: Signal, path: Path, value: Any) -> Any:
    """The least valid request in which `path` holds `value`."""
    request = node = KINDS[signal]()
    for field in path[:-1]:
        node = getattr(node, field.name)
        if field.is_repeated:
            node = node.add()
        else:
            node.SetInParent()
    if path[-1].is_repeated:
        getattr(node, path[-1].name).append(value)
    else:
        setattr(node, path[-1].name, value)
    {"traces": complete_traces, "metrics": complete_metrics, "logs": complete_logs}[signal](request)
    return request


def first(repeated: Any) -> Any:
    return repeated[0] if len(repeated) else repeated.add()


def complete_traces(request: Any) -> None:
    span = first(first(first(request.resource_spans).scope_spans).spans)
    span.trace_id = span.trace_id or bytes([9] * 16)
    span.span_id = span.span_id or bytes([9] * 8)
    span.start_time_unix_nano = span.start_time_unix_nano or NOW


def complete_metrics(request: Any) -> None:
    metric = first(first(first(request.resource_metrics).scope_metrics).metrics)
    metric.name = metric.name or "metric"
    kind = metric.WhichOneof("data") or "gauge"
    point = first(getattr(metric, kind).data_points)
    point.time_unix_nano = point.time_unix_nano or NOW


def complete_logs(request: Any) -> None:
    record = first(first(first(request.resource_logs).scope_logs).log_records)
    record.observed_time_unix_nano = record.observed_time_unix_nano or NOW


def stored(signal: Signal, request: Any, fast: bool) -> list[dict[str, list[Any]]]:
    decoded = otlp.decode(signal, request.SerializeToString(), now_ns=NOW, fast=fast)
    assert decoded.rejected == 0 and sum(b.rows.num_rows for b in decoded.batches) == 1
    return [batch.rows.to_pydict() for batch in decoded.batches]


def test_the_walk_finds_every_message_of_otlp() -> None:
    names = {field.containing_type.name for _, path in CASES for field in path}
    assert {
        "Span",
        "Event",
        "Link",
        "Status",
        "LogRecord",
        "Exemplar",
        "EntityRef",
        "Buckets",
        "ValueAtQuantile",
    } <= names
    assert len(CASES) > 500


@pytest.mark.parametrize("fast", [True, False], ids=["scanner", "upb"])
@pytest.mark.parametrize("signal", KINDS)
def test_every_field_has_somewhere_to_go(signal: Signal, fast: bool) -> None:
    nowhere = []
    for _, path in [case for case in CASES if case[0] == signal]:
        one, two = (stored(signal, request_with(signal, path, value), fast) for value in values(path[-1]))
        if one == two:
            nowhere.append(shown(path))
    assert nowhere == []
