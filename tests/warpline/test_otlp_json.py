"""OTLP/JSON by its own rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.warpline.test_otlp_fields import CASES, KINDS, request_with, values
from warpline import otlp
from warpline.otlp import Malformed, jsonform, read_attributes

NOW = 1_764_000_000_000_000_000


def span(**changes: Any) -> bytes:
    fields = {"traceId": "01" * 16, "spanId": "02" * 8, "name": "s", "startTimeUnixNano": str(NOW)} | changes
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]}).encode()


def row(body: bytes) -> dict[str, Any]:
    rows: list[dict[str, Any]] = otlp.decode("traces", body, otlp.JSON).batches[0].rows.to_pylist()
    return rows[0]


def otlp_json(message: Any) -> Any:
    """The message in OTLP/JSON, by protobuf's own mapping with ids turned into hex and enums into numbers."""

    def corrected(tree: Any, node: Any) -> Any:
        for field, value in node.ListFields():
            if field.name.endswith(("trace_id", "span_id")):
                tree[field.json_name] = value.hex()
            elif field.message_type is not None:
                pairs = (
                    zip(tree[field.json_name], value, strict=True)
                    if field.is_repeated
                    else [(tree[field.json_name], value)]
                )
                for inner, child in pairs:
                    corrected(inner, child)
        return tree

    return corrected(MessageToDict(message, use_integers_for_enums=True), message)


@pytest.mark.parametrize("signal", KINDS)
def test_every_field_is_read_from_json_as_from_protobuf(signal: Any) -> None:
    for _, path in [case for case in CASES if case[0] == signal]:
        message = request_with(signal, path, values(path[-1])[1])
        assert jsonform.read(json.dumps(otlp_json(message)).encode(), KINDS[signal]) == message


def test_ids_are_hex_in_either_case_and_whole_numbers_come_as_texts_or_numbers() -> None:
    found = row(span(traceId="5B8EFFF798038103D269B633813FC60C", spanId="EEE19B7EC3C1B174", endTimeUnixNano=NOW + 1))
    assert (found["trace_id"].hex, found["span_id"]) == ("5b8efff798038103d269b633813fc60c", 0xEEE19B7EC3C1B174)
    assert (found["start_ns"], found["end_ns"]) == (NOW, NOW + 1)


def test_unknown_names_and_nulls_are_ignored_as_is_snake_case() -> None:
    assert row(span(somethingNew=[{"a": None}], parentSpanId=None, trace_state="x"))["trace_state"] is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"traceId": "nXmxo38xgBzRGmcG+0DWvQ=="}, "base64, as Tempo and Jaeger write ids"),
        ({"spanId": "7uGbfsPBsXQ="}, "base64, as Tempo and Jaeger write ids"),
        ({"traceId": "xyz"}, "give 32 hex digits"),
        ({"spanId": "0a 0b"}, "give 16 hex digits"),
        ({"kind": "SPAN_KIND_SERVER"}, "enums as numbers"),
        ({"startTimeUnixNano": "soon"}, "whole number"),
        ({"startTimeUnixNano": -1}, "whole number"),
        ({"startTimeUnixNano": "9" * 30}, "whole number"),
        ({"startTimeUnixNano": True}, "whole number"),
        ({"name": 5}, "resourceSpans.scopeSpans.spans.name: is 5"),
        ({"name": "\ud800"}, "surrogate"),
        ({"attributes": {"a": 1}}, "give an array"),
        ({"attributes": [5]}, "give objects"),
        ({"status": []}, "give an object"),
    ],
)
def test_what_is_not_otlp_json_is_refused_by_the_fields_name(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Malformed, match=sentence):
        otlp.decode("traces", span(**changes), otlp.JSON)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'"x"', b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"batches": []}']
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        otlp.decode("traces", body, otlp.JSON)


def test_values_nested_too_deep_are_refused() -> None:
    for depth, fits in ((20, True), (200, False), (300, False)):
        value: Any = {"stringValue": "x"}
        for _ in range(depth):
            value = {"arrayValue": {"values": [value]}}
        body = span(attributes=[{"key": "deep", "value": value}])
        if fits:
            assert row(body)["attributes"].count("[") == depth
        else:
            with pytest.raises(Malformed, match="nested deeper"):
                otlp.decode("traces", body, otlp.JSON)


@pytest.mark.parametrize("field", ["attributes", "events", "links"])
def test_masses_of_empty_objects_are_refused_before_they_cost_memory(field: str) -> None:
    body = span(**{field: []}).replace(b'"%s": []' % field.encode(), b'"%s": [%s]' % (field.encode(), b"{}," * 150_000))
    with pytest.raises(Malformed, match="objects and arrays in"):
        otlp.decode("traces", body, otlp.JSON)


def test_texts_that_hold_json_of_their_own_are_no_objects() -> None:
    text = json.dumps([{}] * 60_000 + [[]] * 60_000) + '\\"{'
    found = row(span(attributes=[{"key": "tools", "value": {"stringValue": text}}]))
    assert read_attributes(found["attributes"]) == [("tools", text)]


@pytest.mark.parametrize("rest", [b"{" * 200_000 + b"\\", b'{\\"' * 200_000])
def test_a_text_that_does_not_end_is_passed_over_once(rest: bytes) -> None:
    with pytest.raises(Malformed, match="not JSON"):
        otlp.decode("traces", b'{"a": "' + rest, otlp.JSON)


def test_numbers_that_json_has_no_word_for_come_as_texts() -> None:
    point = '{"timeUnixNano":"%d","asDouble":%s}'
    for text, value in (
        ('"NaN"', "nan"),
        ('"Infinity"', "inf"),
        ('"-Infinity"', "-inf"),
        ('"1.5"', "1.5"),
        ("2", "2.0"),
    ):
        body = '{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[%s]}}]}]}]}'
        found = jsonform.read((body % (point % (NOW, text))).encode(), ExportMetricsServiceRequest)
        assert str(found.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0].as_double) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["resourceSpans", "scopeSpans", "spans", "resource", "attributes", "key", "value", "traceId"]
            )
            | st.sampled_from(
                ["kvlistValue", "values", "intValue", "kind", "status", "code", "events", "flags", "bytesValue"]
            ),
            inner,
            max_size=3,
        )
    ),
)


@given(JSON)
def test_no_json_raises_anything_but_malformed(tree: Any) -> None:
    try:
        jsonform.read(json.dumps(tree).encode(), ExportTraceServiceRequest)
    except Malformed as error:
        assert str(error)
