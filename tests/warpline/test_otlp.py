"""OTLP both ways: Warpline's own batches, and what foreign senders send."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from warpline import otlp, schema
from warpline.batch import Batch
from warpline.errors import SchemaError
from warpline.otlp import Malformed, limits, read_attributes
from warpline.otlp.arrow import body
from warpline.otlp.values import Redaction, attributes_text

NOW = 1_764_000_000_000_000_000
KERNEL = schema.table("gpu_kernel")


def kernels(count: int = 1000) -> pa.RecordBatch:
    start = NOW + np.arange(count) * 1000
    names = [f"kernel_{i % 7}" for i in range(count)]
    columns = {"start_ns": start, "end_ns": start + 500, "node": "node-a", "name": names, "kind": "kernel"}
    return KERNEL.batch(columns)


def test_batches_come_back_as_they_were_sent_with_their_names_and_their_dictionaries() -> None:
    sent = [Batch(KERNEL, kernels(), "node-a/1/1"), Batch(KERNEL, kernels(3), "node-a/1/2")]
    decoded = otlp.decode("logs", otlp.encode(sent, {"service.name": "warpline-collector"}))
    assert [b.batch_id for b in decoded.batches] == ["node-a/1/1", "node-a/1/2"]
    assert all(a.rows.equals(b.rows) and a.table is b.table for a, b in zip(sent, decoded.batches, strict=True))
    assert pa.types.is_dictionary(decoded.batches[0].rows.schema.field("name").type)
    assert (decoded.rejected, decoded.losses) == (0, {})


def test_a_batch_record_says_what_it_holds_to_whatever_stands_in_between() -> None:
    request = ExportLogsServiceRequest.FromString(otlp.encode([Batch(KERNEL, kernels(5), "n/1/1")], {"host.name": "h"}))
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    found = {a.key: a.value.string_value or a.value.int_value for a in record.attributes}
    assert record.event_name == "gpu_kernel" and record.time_unix_nano == NOW
    assert found == {
        "warpline.batch.id": "n/1/1",
        "warpline.batch.rows": 5,
        "warpline.batch.schema_version": schema.VERSION,
        "warpline.batch.start_ns": NOW,
        "warpline.batch.end_ns": NOW + 4000,
    }


def test_a_batch_without_a_name_or_too_large_is_not_sent() -> None:
    with pytest.raises(SchemaError, match="name it"):
        otlp.encode([Batch(KERNEL, kernels(1))], {})
    noise = np.random.default_rng(1).integers(0, 1 << 62, 600_000)
    rows = KERNEL.batch({"start_ns": noise, "node": "n", "kind": "kernel"})
    with pytest.raises(SchemaError, match="keep it to 3145728"):
        otlp.encode([Batch(KERNEL, rows, "n/1/1")], {})


def own_record(event_name: str, payload: bytes, rows: int = 10) -> bytes:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(event_name=event_name)
    record.body.bytes_value = payload
    record.attributes.add(key="warpline.batch.id").value.string_value = "n/1/1"
    record.attributes.add(key="warpline.batch.rows").value.int_value = rows
    return bytes(request.SerializeToString())


def altered(change: str) -> bytes:
    rows = kernels(10)
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    if change == "missing":
        del columns["name"]
    elif change == "unknown":
        columns["extra"] = rows.column("start_ns")
    elif change == "type":
        columns["name"] = pa.array([1] * 10)
    elif change == "null":
        schema_of = rows.schema.set(0, rows.schema.field(0))
        nulls = pa.array([None] * 10, pa.int64())
        arrays = [nulls if n == "start_ns" else a for n, a in columns.items()]
        return body(pa.RecordBatch.from_arrays(arrays, schema=schema_of)).to_pybytes()
    return body(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))).to_pybytes()


@pytest.mark.parametrize(
    ("event_name", "payload", "sentence"),
    [
        ("no_such_table", body(kernels(10)).to_pybytes(), "not declared"),
        ("gpu_kernel", b"", "column|not Arrow|not an Arrow"),
        ("gpu_kernel", b"garbage", "not an Arrow IPC stream"),
        ("gpu_kernel", body(kernels(10)).to_pybytes()[:-200], "Arrow"),
        ("gpu_kernel", altered("missing"), r"columns \['name'\] are missing"),
        ("gpu_kernel", altered("unknown"), r"\['extra'\] unknown"),
        ("gpu_kernel", altered("type"), "name is int64"),
        ("gpu_kernel", altered("null"), "start_ns"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_a_sentence_and_all_its_rows_are_counted(
    event_name: str, payload: bytes, sentence: str
) -> None:
    decoded = otlp.decode("logs", own_record(event_name, payload))
    assert not decoded.batches and decoded.rejected == 1
    assert decoded.losses == {"batch does not fit its table": 10}
    assert re.search(sentence, decoded.message)


def test_an_arrow_body_that_would_fill_the_memory_is_refused_before_it_is_decompressed() -> None:
    zeros = np.zeros(40_000_000, np.int64)
    stream = body(pa.RecordBatch.from_arrays([pa.array(zeros)], names=["start_ns"])).to_pybytes()
    assert len(stream) < 3 << 20
    decoded = otlp.decode("logs", own_record("gpu_kernel", stream))
    assert not decoded.batches and "320000000 bytes decompressed" in decoded.message


@given(st.data())
def test_a_damaged_arrow_body_never_raises(data: st.DataObject) -> None:
    payload = bytearray(body(kernels(50)).to_pybytes())
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    decoded = otlp.decode("logs", own_record("gpu_kernel", bytes(payload)))
    assert decoded.rejected + len(decoded.batches) == 1


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.one_of(
    st.builds(AnyValue),
    st.builds(AnyValue, string_value=TEXTS),
    st.builds(AnyValue, int_value=st.integers(-(1 << 63), (1 << 63) - 1)),
    st.builds(AnyValue, double_value=st.floats()),
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, bytes_value=st.binary(max_size=9)),
)
KEYS = st.one_of(st.sampled_from(["$bytes", "$double", "$", "$$x", "a", ""]), TEXTS)


def nested(inner: st.SearchStrategy[AnyValue]) -> st.SearchStrategy[AnyValue]:
    arrays = st.lists(inner, max_size=3).map(lambda vs: AnyValue(array_value={"values": vs}))
    pairs = st.lists(st.builds(KeyValue, key=KEYS, value=inner), max_size=3)
    return st.one_of(arrays, pairs.map(lambda ps: AnyValue(kvlist_value={"values": ps})))


VALUES = st.recursive(SCALARS, nested, max_leaves=8)


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return [(pair.key, plain(pair.value)) for pair in value.kvlist_value.values]
    return getattr(value, kind) if kind else None


def same(one: Any, two: Any) -> bool:
    """Equal with types, a NaN equal to a NaN, -0.0 other than 0.0."""
    return repr(one) == repr(two)


@given(st.lists(st.builds(KeyValue, key=KEYS, value=VALUES), min_size=1, max_size=4))
def test_attributes_come_back_with_value_type_and_order(pairs: list[KeyValue]) -> None:
    text = attributes_text(pairs, Redaction(keep=True))
    assert same(read_attributes(text), [(p.key, plain(p.value)) for p in pairs])
    json.loads(text or "")


def span_request(**attributes: Any) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(name="s", start_time_unix_nano=NOW)
    span.trace_id, span.span_id = bytes([1] * 16), bytes([2] * 8)
    for key, value in attributes.items():
        pair = span.attributes.add(key=key.replace("__", "."))
        setattr(pair.value, {str: "string_value", int: "int_value", float: "double_value"}[type(value)], value)
    return request


def only_row(request: Any, fast: bool, **more: Any) -> tuple[dict[str, Any], otlp.Decoded]:
    decoded = otlp.decode("traces", request.SerializeToString(), now_ns=NOW, fast=fast, **more)
    return decoded.batches[0].rows.to_pylist()[0], decoded


both = pytest.mark.parametrize("fast", [True, False], ids=["scanner", "upb"])


@both
def test_a_known_attribute_of_another_type_stays_what_it_was(fast: bool) -> None:
    row, _ = only_row(span_request(http__response__status_code="200", gen_ai__usage__input_tokens=7), fast)
    assert (row["http_status"], row["input_tokens"]) == (None, 7)
    assert read_attributes(row["attributes"]) == [("http.response.status_code", "200")]


@both
def test_an_attribute_given_twice_keeps_both(fast: bool) -> None:
    request = span_request(url__path="/a")
    request.resource_spans[0].scope_spans[0].spans[0].attributes.add(key="url.path").value.string_value = "/b"
    row, _ = only_row(request, fast)
    assert row["path"] == "/a" and read_attributes(row["attributes"]) == [("url.path", "/b")]


CONTENT = [
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.prompt.0.content",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.user.message",
    "gen_ai.tool.call.arguments",
    "llm.input_messages.0.message.content",
    "input.value",
    "http.request.body",
    "http.response.body.content",
    "traceloop.entity.input",
]
SECRETS = ["http.request.header.authorization", "http.request.header.cookie", "http.request.header.x-api-key"]
HARMLESS = ["gen_ai.usage.cached_tokens", "http.request.body.size", "gen_ai.prompt_tokens", "input.valued"]


@both
@pytest.mark.parametrize("where", ["attribute", "nested", "event", "link", "resource", "scope"])
def test_content_is_dropped_wherever_it_stands_and_counted(fast: bool, where: str) -> None:
    request = span_request(kept="yes")
    resource = request.resource_spans[0]
    scope, span = resource.scope_spans[0], resource.scope_spans[0].spans[0]
    nest = span.attributes.add(key="outer").value.kvlist_value.values
    targets = {
        "attribute": span.attributes,
        "nested": nest,
        "event": span.events.add(name="e").attributes,
        "link": span.links.add(trace_id=bytes(16)).attributes,
        "resource": resource.resource.attributes,
        "scope": scope.scope.attributes,
    }
    for key in CONTENT + SECRETS + HARMLESS:
        targets[where].add(key=key).value.string_value = "what was said"
    row, decoded = only_row(request, fast)
    assert str(row).count("what was said") == len(HARMLESS) and all(key in str(row) for key in HARMLESS)
    assert decoded.losses == {"content redacted": len(CONTENT) + len(SECRETS)}
    row, decoded = only_row(request, fast, keep_content=True)
    assert str(row).count("what was said") == len(HARMLESS) + len(CONTENT)
    assert decoded.losses == {"content redacted": len(SECRETS)}


@both
def test_the_body_of_a_message_event_is_dropped_and_counted(fast: bool) -> None:
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    records.add(time_unix_nano=NOW, event_name="gen_ai.user.message").body.string_value = "what was said"
    records.add(time_unix_nano=NOW, event_name="gen_ai.choice").body.kvlist_value.values.add(key="content")
    records.add(time_unix_nano=NOW).body.string_value = "started"
    named = records.add(time_unix_nano=NOW)
    named.body.string_value = "what was said"
    named.attributes.add(key="event.name").value.string_value = "gen_ai.assistant.message"
    decoded = otlp.decode("logs", request.SerializeToString(), fast=fast)
    assert decoded.batches[0].rows.column("body").to_pylist() == [None, None, "started", None]
    assert decoded.losses == {"content redacted": 3}


@both
@pytest.mark.parametrize(
    ("start", "end", "stored"),
    [
        (NOW, NOW + 5, (NOW, NOW + 5)),
        (NOW, 0, (NOW, None)),
        (0, NOW - 9, (NOW - 9, NOW - 9)),
        (0, 0, (NOW, None)),
        (NOW, NOW - 5, (NOW, NOW - 5)),
        (5, NOW, None),
        (NOW, (1 << 64) - 1, None),
        (1 << 63, 0, None),
    ],
)
def test_times_that_are_missing_are_filled_and_impossible_ones_refused(
    fast: bool, start: int, end: int, stored: tuple[int, int | None] | None
) -> None:
    request = span_request()
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.start_time_unix_nano, span.end_time_unix_nano = start, end
    decoded = otlp.decode("traces", request.SerializeToString(), now_ns=NOW, fast=fast)
    rows = [row for batch in decoded.batches for row in batch.rows.to_pylist()]
    assert [(row["start_ns"], row["end_ns"]) for row in rows] == ([stored] if stored else [])
    assert decoded.losses == ({} if stored else {"time outside this century": 1})


@both
@pytest.mark.parametrize("depth", [0, 1, 2, 3], ids=["resources", "scopes", "spans", "attributes"])
def test_masses_of_empty_messages_are_refused_before_they_cost_memory(fast: bool, depth: int) -> None:
    tags = (b"\x0a", b"\x12", b"\x12", b"\x4a")
    body = (tags[depth] + b"\x00") * (2 << 20)
    for tag in reversed(tags[:depth]):
        body = tag + varint(len(body)) + body
    with pytest.raises(Malformed, match=r"empty messages|resources"):
        otlp.decode("traces", body, fast=fast)


@both
def test_masses_of_scopes_are_refused_whatever_else_they_hold(fast: bool) -> None:
    block = b"\x12\x03\x1a\x01u" * 20_001  # ScopeSpans of a schema URL each.
    body = b"\x0a" + varint(len(block)) + block
    with pytest.raises(Malformed, match="resources or scopes"):
        otlp.decode("traces", body, fast=fast)
    block = block[:-5]
    assert otlp.decode("traces", b"\x0a" + varint(len(block)) + block, fast=fast).batches == []


@both
@pytest.mark.parametrize("key", ["application.note", "url.path"], ids=["any attribute", "one with a column"])
def test_a_record_with_a_text_beyond_measure_is_refused_and_those_beside_it_are_kept(fast: bool, key: str) -> None:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for number, size in enumerate((100, limits.MAX_TEXT_BYTES + 1, limits.MAX_TEXT_BYTES - 100)):
        span = scope.spans.add(trace_id=bytes([1] * 16), span_id=bytes([number + 1] * 8), start_time_unix_nano=NOW)
        span.attributes.add(key=key).value.string_value = "x" * size
    decoded = otlp.decode("traces", request.SerializeToString(), fast=fast)
    assert decoded.batches[0].rows["span_id"].to_pylist() == [0x0101010101010101, 0x0303030303030303]
    assert (decoded.rejected, decoded.losses) == (1, {limits.LARGE: 1})
    assert decoded.message == "span: 1 records have a text of more than 4194304 bytes; shorten their attributes"


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_real_files_of_other_projects_are_read_or_refused_by_name(shared_data: Path, signal: Any) -> None:
    stem = signal.removesuffix("s")
    files = sorted(f for f in (shared_data / "otlp").rglob(f"*{stem}*") if f.suffix in (".json", ".pb"))
    assert files
    for file in files:
        kind = otlp.JSON if file.suffix == ".json" else otlp.PROTOBUF
        try:
            decoded = otlp.decode(signal, file.read_bytes(), kind)
        except Malformed as error:
            assert "enums as numbers" in str(error) or "is base64, as Tempo" in str(error)
            assert kind == otlp.JSON
        else:
            assert decoded.rejected == 0
            for batch in decoded.batches:
                batch.rows.validate(full=True)


HUNGRY = """
import resource, sys
from warpline import otlp
body = b"\\x0a\\x00" * (2 << 20)
one = b"\\x0a\\x04\\x12\\x02\\x12\\x00" * 600_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for each in (body, one):
    try:
        otlp.decode("traces", each, fast=sys.argv[1] == "True")
        print("decoded")
    except otlp.Malformed:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@both
def test_four_megabytes_of_empty_messages_cost_less_than_forty(fast: bool) -> None:
    ran = subprocess.run([sys.executable, "-c", HUNGRY, str(fast)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 40
