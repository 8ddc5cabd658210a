"""What others send to the OTLP doors: spans, metric points, log records."""

from __future__ import annotations

from warpline.schema.declare import (
    END,
    START,
    TIME,
    Column,
    Table,
    Type,
    counts,
    flag,
    integer,
    json,
    json_name,
    name,
    number,
    span_id,
    text,
    trace_id,
)

_RESOURCE = (
    name("service", "Service that sent it.", "service.name"),
    name("node", "Node, where the resource names one.", "k8s.node.name"),
    name("pod", "Pod, where the resource names one.", "k8s.pod.name"),
    name("pod_uid", "Pod UID, where the resource names one.", "k8s.pod.uid"),
    json_name("resource", "The resource's other attributes."),
    name("scope", "Instrumentation scope's name.", "otel.scope.name"),
    json_name("origin", "What else is known of resource and scope: versions, schema URLs, scope attributes, entities."),
)

SPAN = Table(
    "span",
    "One OTLP span, as its sender made it; attributes that the joins need are columns, all others are kept beside them.",
    (
        START,
        END,
        trace_id("W3C trace id.", required=True),
        span_id("span_id", "Span id.", required=True),
        span_id("parent_span_id", "Parent's span id; NULL at a root."),
        name("name", "Span's name."),
        name("kind", "internal, server, client, producer, consumer or unspecified."),
        name("status", "unset, ok or error."),
        text("status_message", "What the sender said of its status."),
        *_RESOURCE,
        name("model", "Model asked for.", "gen_ai.request.model"),
        text("request_id", "Engine's own id of the request.", "gen_ai.request.id"),
        text("response_id", "Id of the response.", "gen_ai.response.id"),
        integer("input_tokens", "Prompt's length.", "gen_ai.usage.input_tokens"),
        integer("output_tokens", "Completion's length.", "gen_ai.usage.output_tokens"),
        name("method", "HTTP method.", "http.request.method"),
        integer("http_status", "HTTP status.", "http.response.status_code"),
        text("path", "Path.", "url.path"),
        json("attributes", "All other attributes, each with its OTLP type."),
        json("events", "Span events: name, time and attributes."),
        json("links", "Links to other spans."),
        text("trace_state", "W3C trace state."),
        integer("flags", "OTLP flags."),
        integer("dropped", "Attributes, events and links that the sender dropped."),
    ),
    keys=("trace_id",),
)

METRIC_POINT = Table(
    "metric_point",
    "One OTLP data point.",
    (
        TIME,
        integer("start_ns_of_sum", "When a sum or histogram started to count."),
        name("name", "Metric's name.", required=True),
        name("description", "What the sender said of the metric."),
        name("unit", "UCUM unit."),
        json_name(
            "metadata", "The metric's own attributes (where it came from), which are no dimension of its points."
        ),
        name("kind", "gauge, sum, histogram, exponential_histogram or summary."),
        name("temporality", "delta or cumulative."),
        flag("monotonic", "True for a sum that only grows."),
        number("value", "Value of a gauge or sum; sum of a histogram or summary."),
        integer("whole_value", "Value where the sender gave a whole number, exactly; `value` holds it as well."),
        integer("count", "Count of a histogram or summary."),
        json("buckets", "Bounds and counts, quantiles, or exponential buckets."),
        number("least", "Least value of a histogram."),
        number("greatest", "Greatest value of a histogram."),
        json("exemplars", "Exemplars: value, time, trace and span id."),
        *_RESOURCE,
        json("attributes", "The point's attributes, each with its OTLP type."),
        integer("flags", "OTLP flags."),
    ),
    keys=("name",),
)

LOG_RECORD = Table(
    "log_record",
    "One OTLP log record that is not a batch of Warpline's own.",
    (
        TIME,
        integer("observed_ns", "When its collector saw it."),
        name("event_name", "Event's name."),
        name("severity", "Severity as written, else its number's name."),
        integer("severity_number", "OTLP severity number."),
        text("body", "Body, as text or JSON; content of prompts and completions is not kept."),
        name("body_type", "OTLP type of a body that is no text: bool, int, double, array, kvlist, bytes."),
        trace_id("Trace id."),
        Column("span_id", Type.SPAN_ID, "Span id."),
        *_RESOURCE,
        json("attributes", "Attributes, each with its OTLP type."),
        integer("flags", "OTLP flags."),
        integer("dropped", "Attributes that the sender dropped."),
    ),
)

RECORDING = Table(
    "recording",
    "One file that was imported, or one bundle that was opened.",
    (
        START,
        END,
        text("recording_uid", "SHA-256 of the file, first 16 hex digits: the same file is stored once.", required=True),
        text("name", "File's name."),
        name("format", "kineto, nsys, triton, incident, sample_trace."),
        name("clock", "How its times became node time."),
        integer("clock_error_ns", "How far they may be off; NULL unknown."),
        integer("rows", "Rows that it holds."),
        counts("ranks", "Ranks found in it."),
        flag("simulated", "True where no real device made it."),
        json("summary", "What was found, and what was not understood."),
    ),
)

TELEMETRY_TABLES = (SPAN, METRIC_POINT, LOG_RECORD, RECORDING)
