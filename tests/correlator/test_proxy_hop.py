"""Hops of a request, from access logs and from Envoy's spans, under one key."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors import envoy_log
from correlator.joins import ids
from tests.correlator import one_view
from tests.correlator.storing import NOON
from tests.correlator.test_engine_span_phase import spans
from warpline import otlp
from warpline.batch import Batch

LOGGED = "9bab4f77-f271-9d8b-9cf7-127055663144"
SENT = "9bab4f77-f271-4d8b-9cf7-127055663144"


def span(**more: Any) -> list[Batch]:
    attributes = {
        "guid:x-request-id": SENT,
        "node_id": "sidecar~10.244.0.20~reviews-v1-667b5cc65d-4m24g.bookinfo~bookinfo.svc.cluster.local",
        "http.status_code": "200",
        "http.url": "http://reviews:9080/reviews/0?user=secret",
        "http.method": "GET",
        "response_flags": "-",
        "upstream_cluster.name": "inbound|9080||",
    }
    return spans({"name": "reviews:9080/*", "scope": "envoy", "attributes": attributes | more, "end": NOON + 9})


def test_a_log_and_a_span_of_one_request_have_one_key(shared_data: Path) -> None:
    block = (shared_data / "envoy/access-logs/istio-1.7-json-all-strings-2020.jsonl").read_bytes()
    rows, _ = envoy_log.decode(block, "n", "default/reviews")
    found = one_view.read("proxy_hop", [Batch(envoy_log.HOP, rows), *span()], "start_ns")
    assert [row["told_by"] for row in found] == ["log", "log", "log", "span"]
    assert {row["request_key"] for row in found} == {"9bab4f77-f271-.d8b-9cf7-127055663144"}
    assert ids.masked(pa.array([LOGGED]))[0].as_py() == found[0]["request_key"], "as the identity join masks it"
    traced = found[3]
    assert (traced["proxy"], traced["path"], traced["status"]) == (
        "bookinfo/reviews-v1-667b5cc65d-4m24g",
        "/reviews/0",
        200,
    )
    assert (traced["method"], traced["response_flags"], traced["upstream_cluster"]) == ("GET", None, "inbound|9080||")


def otlp_json(file: Path) -> bytes:
    """A trace as Tempo's API answers it, in OTLP's JSON: other name, ids in hex instead of base64, enums as numbers."""
    told = json.loads(file.read_text())
    for resource in told["batches"]:
        for scope in resource["scopeSpans"]:
            for each in scope["spans"]:
                ids_of = {name: each[name] for name in ("traceId", "spanId", "parentSpanId") if each.get(name)}
                each |= {name: base64.b64decode(text).hex() for name, text in ids_of.items()}
                each["kind"] = Span.SpanKind.Value(each["kind"])
                each["status"] = {}
    return json.dumps({"resourceSpans": told["batches"]}).encode()


def test_the_spans_of_a_real_istio_are_the_eight_sides_of_one_requests_hops(shared_data: Path) -> None:
    body = otlp_json(shared_data / "envoy/istio-traces-tempo/responseTrace.json")
    found = one_view.read("proxy_hop", otlp.decode("traces", body, otlp.JSON).batches, "start_ns")
    assert {row["request_key"] for row in found} == {"e4e8c177-3962-.359-945e-61e7175cd867"}
    assert [(row["side"], row["path"], row["status"]) for row in found] == [
        ("client", "/productpage", 200),
        ("server", "/productpage", 200),
        ("client", "/details/0", 200),
        ("server", "/details/0", 200),
        ("client", "/reviews/0", 200),
        ("server", "/reviews/0", 200),
        ("client", "/ratings/0", 200),
        ("server", "/ratings/0", 200),
    ]
    assert found[0]["proxy"] == "istio-system/istio-ingressgateway-79788cd94-wgmsp"
    assert (found[0]["start_ns"], found[0]["end_ns"]) == (1701779876_570888000, 1701779876_582820000)
    assert {row["attempts"] for row in found if row["side"] == "client"} == {1}


def test_an_id_that_is_no_uuid_is_its_own_key() -> None:
    found = one_view.read("proxy_hop", span(**{"guid:x-request-id": "my-id-42"}), "start_ns")
    assert found[0]["request_key"] == "my-id-42"
