"""Engines' spans as phases of a request: exact durations, honest positions, no parent that is not the request's."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.correlator import one_view
from tests.correlator.storing import NOON
from warpline import otlp, schema
from warpline.batch import Batch

S = 1_000_000_000
TRACE = uuid.UUID("0af76519-16cd-43dd-8448-eb211c80319c")
VLLM = {
    "gen_ai.request.id": "chatcmpl-abc",
    "gen_ai.usage.prompt_tokens": 100,
    "gen_ai.usage.completion_tokens": 23,
    "gen_ai.response.model": "m",
    "gen_ai.latency.time_in_queue": 0.25,
    "gen_ai.latency.time_to_first_token": 1.0,
    "gen_ai.latency.e2e": 3.5,
    "gen_ai.latency.time_in_model_prefill": 0.5,
    "gen_ai.latency.time_in_model_decode": 2.25,
}


def spans(*told: dict[str, Any]) -> list[Batch]:
    """Spans as they come through the OTLP door: name, start, end, attributes, scope, events."""
    request = ExportTraceServiceRequest()
    for number, each in enumerate(told):
        block = request.resource_spans.add().scope_spans.add()
        block.scope.name = each.get("scope", "vllm.llm_engine")
        span = block.spans.add(
            trace_id=TRACE.bytes,
            span_id=(number + 1).to_bytes(8, "big"),
            parent_span_id=each.get("parent", b""),
            name=each.get("name", "llm_request"),
            start_time_unix_nano=each.get("start", NOON),
            end_time_unix_nano=each.get("end", NOON + int(3.5 * S)),
        )
        for key, value in each.get("attributes", {}).items():
            kind = {str: "string_value", int: "int_value", float: "double_value"}[type(value)]
            setattr(span.attributes.add(key=key).value, kind, value)
        for name, time_ns in each.get("events", {}).items():
            span.events.add(name=name, time_unix_nano=time_ns)
    return otlp.decode("traces", request.SerializeToString(), "application/x-protobuf").batches


def phases(batches: list[Batch]) -> list[dict[str, Any]]:
    return one_view.read("engine_span_phase", batches, "start_ns")


def exchange(trace: uuid.UUID, response: str = "chatcmpl-abc") -> Batch:
    table = schema.table("http_exchange")
    columns = {"start_ns": NOON, "node": "n", "side": "server", "trace_id": trace.bytes, "response_id": response}
    return Batch(table, table.batch(columns, 1))


@pytest.mark.parametrize("scope", ["vllm.llm_engine", "sglang", "tensorrt_llm.llmapi"])
def test_durations_are_the_engines_and_positions_follow_from_the_arrival(scope: str) -> None:
    rows = {row["phase"]: row for row in phases(spans({"attributes": VLLM, "scope": scope}))}
    assert set(rows) == {"request", "first_token", "queue", "prefill", "decode"}
    at = {phase: (row["start_ns"] - NOON, row["end_ns"] - NOON, row["duration_ns"]) for phase, row in rows.items()}
    assert at["request"] == (0, 3_500_000_000, 3_500_000_000)
    assert at["first_token"] == (0, S, S)
    assert at["queue"] == (250_000_000, 500_000_000, 250_000_000)
    assert at["prefill"] == (500_000_000, S, 500_000_000)
    assert at["decode"] == (S, 3_250_000_000, 2_250_000_000)
    assert rows["queue"]["position_error_ns"] == 250_000_000, "what neither queue nor prefill explains"
    assert (rows["queue"]["clock"], rows["queue"]["position_evidence"]) == ("monotonic", "derived")
    assert (rows["request"]["clock"], rows["request"]["position_evidence"]) == ("wall", "exact")
    assert {row["engine"] for row in rows.values()} == {scope.partition(".")[0]}
    assert {(row["input_tokens"], row["output_tokens"], row["model"]) for row in rows.values()} == {(100, 23, "m")}
    assert {row["request_id"] for row in rows.values()} == {"chatcmpl-abc"}


def test_an_aborted_request_has_no_phases_but_its_own() -> None:
    rows = phases(spans({"attributes": {"gen_ai.request.id": "cmpl-x-0", "gen_ai.latency.time_in_queue": 0.1}}))
    assert [row["phase"] for row in rows] == ["request"]


def test_the_one_number_in_milliseconds_is_read_as_such() -> None:
    told = {**VLLM, "gen_ai.latency.time_in_model_forward": 1500.0, "gen_ai.latency.time_in_scheduler": 0.5}
    rows = {row["phase"]: row for row in phases(spans({"attributes": told}))}
    assert (rows["model_forward"]["duration_ns"], rows["model_forward"]["end_ns"]) == (1_500_000_000, None)
    assert rows["scheduler"]["duration_ns"] == 500_000_000


@pytest.mark.parametrize(
    ("seen", "evidence"),
    [(TRACE, "exact"), (uuid.UUID(int=7), "refused"), (None, "derived")],
    ids=["same", "other", "none"],
)
def test_a_parent_is_taken_only_where_the_socket_agrees(seen: uuid.UUID | None, evidence: str) -> None:
    told = spans({"attributes": VLLM, "parent": (99).to_bytes(8, "big")})
    rows = phases(told + ([exchange(seen)] if seen else []))
    assert {row["parent_evidence"] for row in rows} == {evidence}
    assert {row["parent_span_id"] for row in rows} == {None if evidence == "refused" else 99}


def test_prompts_of_one_call_share_its_socket() -> None:
    told = {**VLLM, "gen_ai.request.id": "cmpl-7a1b-2"}
    rows = phases([*spans({"attributes": told, "parent": b"12345678"}), exchange(TRACE, "cmpl-7a1b")])
    assert {row["parent_evidence"] for row in rows} == {"exact"}


def test_preemptions_stand_beside_what_the_span_does_not_tell() -> None:
    table = schema.table("engine_request")
    columns = {"start_ns": NOON, "node": "n", "internal_id": "i", "external_id": "chatcmpl-abc", "preemptions": 2}
    rows = phases([*spans({"attributes": VLLM}), Batch(table, table.batch(columns, 1))])
    assert {row["preemptions"] for row in rows} == {2}


def test_tensorrt_llms_transfer_is_a_phase_of_known_length() -> None:
    told = {**VLLM, "gen_ai.latency.kv_cache_transfer_time": 0.02}
    rows = {row["phase"]: row for row in phases(spans({"attributes": told, "scope": ""}))}
    assert rows["kv_transfer"]["duration_ns"] == 20_000_000
    assert rows["kv_transfer"]["engine"] == "tensorrt_llm"


def test_child_spans_and_the_routers_are_phases_themselves() -> None:
    rows = phases(
        spans(
            {"name": "gateway.request", "scope": "llm-d-inference-scheduler", "end": NOON + 5},
            {"name": "vllm_queue", "start": NOON + 5, "end": NOON + 9},
            {"name": "prefill_forward", "scope": "sglang.srt", "start": NOON + 9, "end": NOON + 20},
            {"name": "vllm_async_kv_transfer", "start": NOON + 20, "end": NOON + 25},
            {"name": "GET /metrics", "scope": "fastapi", "attributes": {"http.route": "/metrics"}},
        ),
    )
    assert [(row["engine"], row["phase"], row["duration_ns"]) for row in rows] == [
        ("llm_d", "routing", 5),
        ("vllm", "queue", 4),
        ("sglang", "prefill", 11),
        ("vllm", "kv_transfer", 5),
    ]


def test_tritons_marks_are_phases(shared_data: Path) -> None:
    file = json.loads((shared_data / "triton/trace/trace-timestamps-docs.json").read_text())
    marks = {mark["name"]: NOON + mark["ns"] % S for each in file for mark in each.get("timestamps", [])}
    attributes = {"triton.model_name": "simple", "triton.request_id": "client-7"}
    rows = phases(spans({"name": "InferRequest", "scope": "triton-server", "attributes": attributes, "events": marks}))
    durations = {row["phase"]: row["duration_ns"] for row in rows}
    assert durations == {
        "request": 2356425057643164 - 2356425054785863,
        "queue": 2356425054887198 - 2356425054791517,
        "compute_input": 2356425057152908 - 2356425054887198,
        "compute": 2356425057497763 - 2356425057152908,
        "compute_output": 2356425057540989 - 2356425057497763,
    }
    assert {(row["engine"], row["model"], row["request_id"]) for row in rows} == {("triton", "simple", "client-7")}
