"""Access logs of Envoy, Istio and Envoy Gateway: each request as each proxy of the mesh saw it.

Follows `envoy_log_files` (wildcards; pods' logs in CRI's form or plain files) through rotation. Keys of an access log are
configuration: JSON in the spellings of Istio, Envoy Gateway and Envoy's own commands, all texts or typed, and the default
texts of Envoy and Istio are understood. Needs to read those files. Costs one core for about 40,000 lines/s.

`duration` runs from the first byte in to the last byte out: of a streamed answer it holds the whole generation, and the
upstream's time is not its time to first token. Log times are whole milliseconds of the proxy's wall clock. Bodies, cookies
and credentials are not kept, whatever a log's format holds; a path loses its query.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from collectors.wire import columns, jsonlines, stream, tail
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

HOP = schema.table("hop")
TABLES = (HOP,)
SCOPE = "node"

_CLOCK_ERROR_NS = 1_000_000
_ALIASES = {
    "start_time": ("start_time", "timestamp", "time"),
    "duration": ("duration", "duration_ms"),
    "method": ("method", ":method", "request_method"),
    "path": ("x-envoy-original-path", "x-envoy-origin-path", "path", ":path", "request_path"),
    "status": ("response_code", "status", "status_code"),
    "response_flags": ("response_flags",),
    "request_id": ("request_id", "x-request-id", "x_request_id"),
    "trace": ("trace_id", "traceid", "traceparent", "x-b3-traceid"),
    "attempts": ("upstream_request_attempt_count", "attempt_count", "attempts", "x-envoy-attempt-count"),
    "request_bytes": ("bytes_received",),
    "response_bytes": ("bytes_sent",),
    "upstream": ("upstream_service_time", "x-envoy-upstream-service-time"),
    "route": ("route_name",),
    "upstream_cluster": ("upstream_cluster",),
    "upstream_address": ("upstream_host",),
    "downstream_address": ("downstream_remote_address",),
    "authority": ("authority", ":authority", "host"),
}
"""What is read → the keys under which logs have it, the preferred first."""

_DETAILS = (
    "protocol",
    "response_code_details",
    "connection_termination_details",
    "upstream_transport_failure_reason",
    "upstream_local_address",
    "downstream_local_address",
    "requested_server_name",
    "user_agent",
    "user-agent",
    "x_forwarded_for",
    "x-forwarded-for",
)
_NUMBERS = {"duration", "duration_ms", "response_code", "status", "status_code", "bytes_received", "bytes_sent"}
_NUMBERS |= {"upstream_request_attempt_count", "attempt_count"}
_KEYS = [*dict.fromkeys(key for keys in _ALIASES.values() for key in keys), *_DETAILS]
_TEXTS = pa.schema([(key, pa.string()) for key in _KEYS])
_TYPED = pa.schema([(key, pa.int64() if key in _NUMBERS else pa.string()) for key in _KEYS])

_CRI = rb"^\S+ (?:stdout|stderr) [FP] "
_HEAD = (
    r'^\[(?P<start_time>[^\]]+)\] "(?P<method>\S+) (?P<path>\S+) (?P<protocol>[^"]+)" '
    r"(?P<status>\d+) (?P<response_flags>\S+) "
)
_ISTIO = (
    r"(?P<response_code_details>\S+) (?P<connection_termination_details>\S+) "
    r'"(?P<upstream_transport_failure_reason>[^"]*)" '
)
_TAIL = (
    r"(?P<request_bytes>\d+) (?P<response_bytes>\d+) (?P<duration>\d+) (?P<upstream>\S+) "
    r'"(?P<xff>[^"]*)" "(?P<user_agent>[^"]*)" "(?P<request_id>[^"]*)" "(?P<authority>[^"]*)" "(?P<upstream_address>[^"]*)"'
)
_ISTIO_END = (
    r" (?P<upstream_cluster>\S+) (?P<upstream_local_address>\S+) (?P<downstream_local_address>\S+)"
    r" (?P<downstream_address>\S+) (?P<requested_server_name>\S+) (?P<route>\S+)"
)
_TEXT_FORMS = (_HEAD + _ISTIO + _TAIL + _ISTIO_END, _HEAD + _TAIL)


def check(settings: Settings) -> str | None:
    """Return why there is no access log to follow, or None."""
    if tail.matching(settings.envoy_log_files):
        return None
    asked = settings.envoy_log_files or "an empty setting"
    return f"no file matches {asked}; set envoy_log_files to the proxies' access logs"


def run(context: Context) -> Iterator[Batch]:
    """Yield `hop` rows as the logs grow."""
    for block in tail.follow(context.settings.envoy_log_files, context):
        if not block.lines:
            yield stream.idle(HOP)
            continue
        rows, lost = decode(block.lines, context.node, proxy(block.path), block.shifts[0])
        for reason, count in lost.items():
            context.lost(reason, count, name=block.name)
        yield Batch(HOP, rows, block.name)


def proxy(path: Path) -> str:
    """Return namespace/pod of a log under /var/log/pods (`<namespace>_<pod>_<uid>/<container>/0.log`), else its path."""
    parts = path.parts[-3].split("_") if len(path.parts) >= 3 else []
    return f"{parts[0]}/{parts[1]}" if len(parts) == 3 and "pods" in path.parts else str(path)


def decode(block: bytes, node: str, name: str, shift_ns: int = 0) -> tuple[pa.RecordBatch, dict[str, int]]:
    """Return the hops in a block of lines, and how many lines gave none, by reason."""
    if re.match(_CRI, block):  # A pod's log: the runtime has put time and stream before each line.
        block = re.sub(_CRI, b"", block, flags=re.MULTILINE)
    lines = [line for line in block.splitlines() if line.strip()]
    objects = [line for line in lines if line.startswith(b"{")]
    texts = [line for line in lines if line.startswith(b"[")]
    parts = []
    bad = 0
    if objects:
        raw, bad = jsonlines.read(b"\n".join(objects), _schema_of(objects[0]))
        parts.append(_from_json(raw))
    if texts:
        parts += _from_text(texts)
    told = pa.concat_tables([*parts, _EMPTY], promote_options="default")
    start = columns.times(_column(told, "start_time"))
    kept = told.filter(pc.is_valid(start))
    lost = {
        "malformed line": bad + len(texts) - sum(part.num_rows for part in parts[bool(objects) :]),
        "line of no access log": len(lines) - len(objects) - len(texts),
        "hop without a time": told.num_rows - kept.num_rows,
    }
    return _hops(kept, pc.add(start.drop_null(), shift_ns), node, name), {k: v for k, v in lost.items() if v}


def _schema_of(line: bytes) -> pa.Schema:
    """Return the schema that fits the log's first line: Istio's, and Envoy's before 1.15, has numbers as texts."""
    return _TEXTS if re.search(rb'"(?:response_code|duration|bytes_sent|status)": *"', line) else _TYPED


_EMPTY = pa.schema([(name, pa.string()) for name in [*_ALIASES, "details"]]).empty_table()


def _from_json(raw: pa.Table) -> pa.Table:
    def text(key: str) -> pa.Array:
        return columns.or_null(columns.field(raw, key).cast(pa.string()), "-")

    read = {name: pc.coalesce(*[text(key) for key in keys]) for name, keys in _ALIASES.items()}
    return pa.table({**read, "details": _details({key: text(key) for key in _DETAILS})})


def _from_text(lines: list[bytes]) -> list[pa.Table]:
    rest = pa.array([line.decode("utf-8", "replace") for line in lines], pa.string())
    tables = []
    for form in _TEXT_FORMS:
        found = pc.extract_regex(rest, form)
        matched, rest = found.drop_null(), rest.filter(pc.is_null(found))
        names = [each.name for each in found.type]
        read = {name: columns.or_null(pc.struct_field(matched, name), "-") for name in names}
        details = _details({key: read[key] for key in names if key in _DETAILS})
        tables.append(pa.table({**{name: read[name] for name in names if name in _ALIASES}, "details": details}))
    return tables


def _details(read: dict[str, pa.Array]) -> pa.Array:
    """Return what else is known of each hop, as JSON; made once for each combination that occurs."""
    distinct: dict[tuple[str | None, ...], str | None] = {}
    texts = []
    for row in zip(*[values.to_pylist() for values in read.values()], strict=True):
        if row not in distinct:
            known = {name.replace("-", "_"): value for name, value in zip(read, row, strict=True) if value is not None}
            distinct[row] = orjson.dumps(known).decode() if known else None
        texts.append(distinct[row])
    return pa.array(texts, pa.string())


def _column(told: pa.Table, name: str) -> pa.Array:
    column = told.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _hops(told: pa.Table, start: pa.Array, node: str, name: str) -> pa.RecordBatch:
    columns_of: dict[str, Any] = {each: _column(told, each) for each in told.column_names}
    duration = _ms(columns_of["duration"])
    trace = columns_of["trace"]
    parent = pc.struct_field(pc.extract_regex(trace, r"^[0-9a-fA-F]{2}-(?P<trace>[0-9a-fA-F]{32})-"), "trace")
    kept = ("method", "response_flags", "request_id", "route", "authority", "details")
    whole = ("status", "attempts", "request_bytes", "response_bytes")
    return HOP.batch(
        {
            **{each: columns_of[each] for each in kept},
            **{each: columns.whole(columns_of[each]) for each in whole},
            **{each: columns_of[each] for each in ("upstream_cluster", "upstream_address", "downstream_address")},
            "start_ns": start,
            "end_ns": pc.add(start, duration),
            "node": node,
            "proxy": name,
            "path": columns.path_of(columns_of["path"]),
            "trace_id": columns.trace_ids(pc.coalesce(parent, trace)),
            "upstream_ns": _ms(columns_of["upstream"]),
            "clock_error_ns": _CLOCK_ERROR_NS,
        },
        told.num_rows,
    )


def _ms(texts: pa.Array) -> pa.Array:
    return pc.multiply(columns.whole(texts), 1_000_000)
