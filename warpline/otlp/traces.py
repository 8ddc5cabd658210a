"""OTLP spans → table `span`, span by span: the scanner's oracle, and what runs where it is not built."""

from __future__ import annotations

from typing import Any

from warpline import schema
from warpline.batch import Batch
from warpline.otlp.records import ORIGIN, Request, Rows, checked, in_range, object_text, origin, span_id, trace_id
from warpline.otlp.values import attributes_text, quote
from warpline.schema import Type

SPAN = schema.table("span")

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")

PROMOTED = {c.otlp: c for c in SPAN.columns if c.otlp and c.name not in ORIGIN}
"""Span attributes that are columns, where their value has the column's type; all others stay in `attributes`."""

_FIELDS = {Type.INT: "int_value", Type.NAME: "string_value", Type.TEXT: "string_value"}
_TARGETS = {key: (column.name, _FIELDS[column.type]) for key, column in PROMOTED.items()}

INVALID_IDS = "span with invalid ids"
INVALID_IDS_SENTENCE = "a span's trace id must be 16 bytes and its span id 8, not all zero"
INVALID_TIME = "time outside this century"


def spans(message: Any, request: Request) -> list[Batch]:
    """Return the spans of an ExportTraceServiceRequest; spans without valid ids or time are rejected."""
    rows = Rows(SPAN, ORIGIN)
    for resource_spans in message.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                row = _row(span, request)
                if row is not None:
                    rows.add(row)
            rows.end_block(origin(resource_spans, scope_spans, request.redaction))
    batch = rows.batch()
    return [batch] if batch else []


def _row(span: Any, request: Request) -> dict[str, Any] | None:
    ids = trace_id(span.trace_id), span_id(span.span_id)
    start = span.start_time_unix_nano or span.end_time_unix_nano or request.now_ns
    end = span.end_time_unix_nano or None
    if None in ids:
        request.outcome.reject(INVALID_IDS, 1, INVALID_IDS_SENTENCE)
        return None
    if not in_range(start) or (end is not None and not in_range(end)):
        request.outcome.reject(INVALID_TIME, 1, f"a span's time is {start} to {end} ns; give Unix nanoseconds")
        return None
    row, others = _promoted(span.attributes)
    return row | {
        "start_ns": start,
        "end_ns": end,
        "trace_id": ids[0],
        "span_id": ids[1],
        "parent_span_id": checked(span_id, span.parent_span_id, request),
        "name": span.name,
        "kind": KINDS[span.kind] if 0 <= span.kind < len(KINDS) else str(span.kind),
        "status": STATUSES[span.status.code] if 0 <= span.status.code < len(STATUSES) else str(span.status.code),
        "status_message": span.status.message or None,
        "attributes": attributes_text(others, request.redaction),
        "events": _list([_event_text(each, request) for each in span.events]),
        "links": _list([_link_text(each, request) for each in span.links]),
        "trace_state": span.trace_state or None,
        "flags": span.flags,
        "dropped": (span.dropped_attributes_count + span.dropped_events_count + span.dropped_links_count) or None,
    }


def _promoted(pairs: Any) -> tuple[dict[str, Any], list[Any]]:
    row: dict[str, Any] = {}
    others = []
    for pair in pairs:
        name, field = _TARGETS.get(pair.key, ("", ""))
        if name and name not in row and pair.value.WhichOneof("value") == field:
            row[name] = getattr(pair.value, field)
        else:
            others.append(pair)
    return row, others


def _list(texts: list[str]) -> str | None:
    return "[" + ",".join(texts) + "]" if texts else None


def _event_text(event: Any, request: Request) -> str:
    parts = {
        "time_ns": str(event.time_unix_nano),
        "name": quote(event.name),
        "attributes": attributes_text(event.attributes, request.redaction),
        "dropped": str(event.dropped_attributes_count) if event.dropped_attributes_count else None,
    }
    return object_text(parts) or "{}"


def _link_text(link: Any, request: Request) -> str:
    parts = {
        "trace_id": f'"{link.trace_id.hex()}"',
        "span_id": f'"{link.span_id.hex()}"',
        "trace_state": quote(link.trace_state) if link.trace_state else None,
        "attributes": attributes_text(link.attributes, request.redaction),
        "dropped": str(link.dropped_attributes_count) if link.dropped_attributes_count else None,
        "flags": str(link.flags) if link.flags else None,
    }
    return object_text(parts) or "{}"
