"""OTLP metrics → table `metric_point`, one row for each data point."""

from __future__ import annotations

from typing import Any

from warpline import schema
from warpline.batch import Batch
from warpline.otlp.records import ORIGIN, Request, Rows, bounded, in_range, object_text, origin, whole
from warpline.otlp.values import attributes_text, double_text, quote

METRIC_POINT = schema.table("metric_point")

KINDS = ("gauge", "sum", "histogram", "exponential_histogram", "summary")
TEMPORALITIES = {0: None, 1: "delta", 2: "cumulative"}

NO_NAME = "metric without a name"
INVALID_TIME = "time outside this century"


def points(message: Any, request: Request) -> list[Batch]:
    """Return the data points of an ExportMetricsServiceRequest; points without a name or with no valid time are rejected."""
    rows = Rows(METRIC_POINT, ORIGIN)
    for resource_metrics in message.resource_metrics:
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                _metric(metric, rows, request)
            rows.end_block(origin(resource_metrics, scope_metrics, request.redaction))
    batch = rows.batch()
    return [batch] if batch else []


def _metric(metric: Any, rows: Rows, request: Request) -> None:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data = getattr(metric, kind)
    if not metric.name:
        request.outcome.reject(NO_NAME, len(data.data_points), "a metric has no name; give it one")
        return
    temporality = getattr(data, "aggregation_temporality", 0)
    shared = {
        "name": metric.name,
        "description": metric.description or None,
        "unit": metric.unit or None,
        "metadata": attributes_text(metric.metadata, request.redaction),
        "kind": kind,
        "temporality": TEMPORALITIES.get(temporality, str(temporality)),
        "monotonic": data.is_monotonic if kind == "sum" else None,
    }
    for point in data.data_points:
        time_ns = point.time_unix_nano or request.now_ns
        if not in_range(time_ns):
            request.outcome.reject(INVALID_TIME, 1, f"a point's time is {time_ns} ns; give Unix nanoseconds")
            continue
        rows.add(shared | _point(kind, point, request) | {"time_ns": time_ns})


def _point(kind: str, point: Any, request: Request) -> dict[str, Any]:
    row = {
        "start_ns_of_sum": bounded(point.start_time_unix_nano, request) or None,
        "attributes": attributes_text(point.attributes, request.redaction),
        "flags": point.flags,
    }
    if kind in ("gauge", "sum"):
        row |= _number(point)
    else:
        row |= _distribution(kind, point)
    if kind != "summary":
        exemplars = [_exemplar_text(each, request) for each in point.exemplars]
        row["exemplars"] = "[" + ",".join(exemplars) + "]" if exemplars else None
    return row


def _number(point: Any) -> dict[str, Any]:
    kind = point.WhichOneof("value")
    if kind == "as_int":
        return {"value": float(point.as_int), "whole_value": point.as_int}
    return {"value": point.as_double} if kind else {}


def _distribution(kind: str, point: Any) -> dict[str, Any]:
    row = {"count": whole(point.count), "buckets": object_text(_buckets(kind, point))}
    if kind == "summary":
        return row | {"value": point.sum}
    given = {"value": "sum", "least": "min", "greatest": "max"}
    return row | {column: getattr(point, name) for column, name in given.items() if point.HasField(name)}


def _buckets(kind: str, point: Any) -> dict[str, str | None]:
    big = str(point.count) if whole(point.count) is None else None
    if kind == "histogram":
        return {"bounds": _numbers(point.explicit_bounds), "counts": _numbers(point.bucket_counts), "count": big}
    if kind == "summary":
        pairs = [f'{{"q":{double_text(q.quantile)},"value":{double_text(q.value)}}}' for q in point.quantile_values]
        return {"quantiles": "[" + ",".join(pairs) + "]" if pairs else None, "count": big}
    return {
        "scale": str(point.scale),
        "zero_count": str(point.zero_count),
        "zero_threshold": double_text(point.zero_threshold) if point.zero_threshold else None,
        "positive": _half(point, "positive"),
        "negative": _half(point, "negative"),
        "count": big,
    }


def _half(point: Any, side: str) -> str | None:
    if not point.HasField(side):
        return None
    half = getattr(point, side)
    return f'{{"offset":{half.offset},"counts":{_numbers(half.bucket_counts) or "[]"}}}'


def _numbers(values: Any) -> str | None:
    texts = [double_text(each) if isinstance(each, float) else str(each) for each in values]
    return "[" + ",".join(texts) + "]" if texts else None


def _exemplar_text(exemplar: Any, request: Request) -> str:
    kind = exemplar.WhichOneof("value")
    value = {"as_int": lambda: str(exemplar.as_int), "as_double": lambda: double_text(exemplar.as_double)}
    parts = {
        "time_ns": str(exemplar.time_unix_nano),
        "value": value[kind]() if kind else None,
        "trace_id": quote(exemplar.trace_id.hex()) if exemplar.trace_id else None,
        "span_id": quote(exemplar.span_id.hex()) if exemplar.span_id else None,
        "attributes": attributes_text(exemplar.filtered_attributes, request.redaction),
    }
    return object_text(parts) or "{}"
