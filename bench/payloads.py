"""OTLP trace requests to measure with: spans of an LLM request's hops, each body with ids and times of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

START_NS = 1_764_000_000_000_000_000
_APART_NS = 10_000
NAMES = ("chat qwen3-32b", "prefill", "decode", "tokenize", "detokenize", "schedule", "sample")

PAYLOADS = ("promoted", "mixed")
"""All eight attributes of a span in columns; six in columns, and two that only its sender knows."""


def request(payload: str, spans: int, seed: int = 1) -> bytes:
    """Return one request of `spans` spans with eight attributes each."""
    rng, made = random.Random(seed), ExportTraceServiceRequest()
    block = made.resource_spans.add()
    for key, text in (("service.name", "vllm"), ("k8s.node.name", "gpu-node-17"), ("telemetry.sdk.language", "python")):
        block.resource.attributes.add(key=key).value.string_value = text
    scope = block.scope_spans.add()
    scope.scope.name = "vllm.llm_engine"
    for i in range(spans):
        start = START_NS + i * _APART_NS + rng.randrange(_APART_NS)
        span = scope.spans.add(name=rng.choice(NAMES), kind=2, start_time_unix_nano=start, flags=257)
        span.end_time_unix_nano = start + rng.randrange(1 << 30)
        span.trace_id, span.span_id, span.parent_span_id = rng.randbytes(16), rng.randbytes(8), rng.randbytes(8)
        span.status.SetInParent()
        for key, value in _attributes(payload, rng).items():
            setattr(span.attributes.add(key=key).value, _FIELDS[type(value)], value)
    return bytes(made.SerializeToString())


_FIELDS = {str: "string_value", int: "int_value", float: "double_value"}


def _attributes(payload: str, rng: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gen_ai.request.model": "Qwen/Qwen3-32B",
        "gen_ai.request.id": f"chatcmpl-{rng.getrandbits(128):032x}",
        "gen_ai.usage.input_tokens": rng.randrange(1, 32_000),
        "gen_ai.usage.output_tokens": rng.randrange(1, 4_000),
        "http.request.method": "POST",
        "http.response.status_code": 200,
    }
    if payload == "promoted":
        return found | {
            "url.path": "/v1/chat/completions",
            "gen_ai.response.id": f"chatcmpl-{rng.getrandbits(128):032x}",
        }
    return found | {"gen_ai.operation.name": "chat", "gen_ai.latency.time_to_first_token": round(rng.random(), 6)}


def requests(payload: str, spans: int, count: int, seed: int = 7, begin: int = 0) -> Iterator[bytes]:
    """Yield `count` requests, each later than the one before it: one layout, with ids that occur once for a seed.

    `begin` is the number of the first: where others came before.
    """
    first = request(payload, spans)
    raw = np.frombuffer(first, np.uint8)
    parsed = ExportTraceServiceRequest.FromString(first).resource_spans[0].scope_spans[0].spans
    places, times = np.empty((spans, 5), np.int64), np.empty((spans, 2), np.int64)
    at = 0
    for i, span in enumerate(parsed):
        times[i] = span.start_time_unix_nano, span.end_time_unix_nano
        texts = span.attributes[1].value.string_value[-32:].encode()
        for j, part in enumerate((span.trace_id, span.span_id, times[i, 0].tobytes(), times[i, 1].tobytes(), texts)):
            at = first.index(part, at)
            places[i, j] = at
    rng = np.random.default_rng(seed)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    for number in range(begin, begin + count):
        body = raw.copy()
        body[places[:, :1] + np.arange(16)] = rng.integers(0, 256, (spans, 16), np.uint8)
        body[places[:, 1:2] + np.arange(8)] = rng.integers(0, 256, (spans, 8), np.uint8)
        later = times + number * spans * _APART_NS
        body[places[:, 2:4, None] + np.arange(8)] = later[..., None].view(np.uint8)
        body[places[:, 4:] + np.arange(32)] = digits[rng.integers(0, 16, (spans, 32))]
        yield body.tobytes()
