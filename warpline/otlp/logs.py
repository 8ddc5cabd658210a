"""OTLP log records: batches of Warpline's own (an Arrow body) straight to their table, all others → `log_record`."""

from __future__ import annotations

from typing import Any

from warpline import schema
from warpline.batch import Batch
from warpline.otlp import arrow
from warpline.otlp.content import is_content_event
from warpline.otlp.records import ORIGIN, Request, Rows, bounded, checked, in_range, origin, span_id, trace_id
from warpline.otlp.values import attributes_text, value_text

LOG_RECORD = schema.table("log_record")

INVALID_TIME = "time outside this century"

SEVERITIES = [f"{word}{i or ''}" for word in ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL") for i in (0, 2, 3, 4)]
"""Names of severity numbers 1 to 24."""


def records(message: Any, request: Request) -> list[Batch]:
    """Return the batches that an ExportLogsServiceRequest holds, and one of its other log records."""
    rows, batches = Rows(LOG_RECORD, ORIGIN), []
    for resource_logs in message.resource_logs:
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                if arrow.is_batch(record):
                    batches += arrow.read(record, request.outcome)
                elif (row := _row(record, request)) is not None:
                    rows.add(row)
            rows.end_block(origin(resource_logs, scope_logs, request.redaction))
    foreign = rows.batch()
    return [*batches, foreign] if foreign else batches


def _row(record: Any, request: Request) -> dict[str, Any] | None:
    time_ns = record.time_unix_nano or record.observed_time_unix_nano or request.now_ns
    if not in_range(time_ns):
        request.outcome.reject(INVALID_TIME, 1, f"a log record's time is {time_ns} ns; give Unix nanoseconds")
        return None
    number = record.severity_number
    return {
        "time_ns": time_ns,
        "observed_ns": bounded(record.observed_time_unix_nano, request) or None,
        "event_name": record.event_name or None,
        "severity": record.severity_text or (SEVERITIES[number - 1] if 1 <= number <= 24 else None),
        "severity_number": number or None,
        **_body(record, request),
        "trace_id": checked(trace_id, record.trace_id, request),
        "span_id": checked(span_id, record.span_id, request),
        "attributes": attributes_text(record.attributes, request.redaction),
        "flags": record.flags,
        "dropped": record.dropped_attributes_count or None,
    }


def _body(record: Any, request: Request) -> dict[str, str]:
    """Return a text as it is; any other value as JSON, with its type beside it."""
    kind = record.body.WhichOneof("value")
    if kind is None:
        return {}
    names = [record.event_name, *(p.value.string_value for p in record.attributes if p.key == "event.name")]
    if any(is_content_event(name, request.redaction.keep) for name in names):
        request.redaction.count += 1
        return {}
    if kind == "string_value":
        return {"body": record.body.string_value}
    return {"body": value_text(record.body, request.redaction), "body_type": kind.removesuffix("_value")}
