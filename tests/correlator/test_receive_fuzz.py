"""Anything at all at both doors: never a crash, never an unexplained 5xx, memory bounded, the next good request stored."""

from __future__ import annotations

import gzip
import http.client
import json
import resource
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from correlator.doors.grpc_door import SERVICES
from correlator.doors.receive import Receiver
from tests.correlator.doors import Kept, open_doors, trace_request
from tests.warpline.test_otlp_fields import CASES, request_with, values
from tests.warpline.test_otlp_json import otlp_json

GOOD = trace_request(1, seed=77).SerializeToString()
SIGNALS = ("traces", "metrics", "logs")
PER_CASE = 400
GROWTH_MB = 200


def seeds(signal: str) -> list[Any]:
    return [request_with(s, path, values(path[-1])[1]) for s, path in CASES if s == signal]


PROTOBUF_SEEDS = {signal: [m.SerializeToString() for m in seeds(signal)] for signal in SIGNALS}
JSON_SEEDS = {signal: [json.dumps(otlp_json(m)).encode() for m in seeds(signal)[::5]] for signal in SIGNALS}

TOKENS = [b"\x0a\x00", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b", b"\x0a\xff\xff\xff\xff\x0f", b"\x00" * 9]
JSON_TOKENS = [b"null", b"[]", b"{}", b'"', b"1e999", b"-0", b"\\ud800", b"9" * 40, b"[" * 50, b"\xc0\x80", b"true"]


@st.composite
def mutated(draw: st.DrawFn, bodies: list[bytes], tokens: list[bytes]) -> bytes:
    """A valid request in which bytes were changed, cut out, doubled or put in."""
    body = bytearray(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(body) - 1, 0)))
        how = draw(st.sampled_from(["change", "cut", "double", "token", "truncate"]))
        if how == "change" and body:
            body[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del body[at : at + draw(st.integers(1, 9))]
        elif how == "double":
            body[at:at] = body[at : at + draw(st.integers(1, 40))]
        elif how == "token":
            body[at:at] = draw(st.sampled_from(tokens))
        else:
            del body[at:]
    return bytes(body)


@pytest.fixture(scope="module")
def doors() -> Iterator[tuple[Receiver, Kept]]:
    with open_doors(correlator_max_request_mb=2) as opened:
        yield opened


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


relaxed = settings(
    max_examples=PER_CASE,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_the_http_door_survives_anything(doors: tuple[Receiver, Kept], signal: str, encoding: str) -> None:
    receiver, kept = doors
    before, statuses = peak_mb(), Counter[int]()
    connection = http.client.HTTPConnection(receiver.http_address, timeout=20)
    bodies = (
        mutated(PROTOBUF_SEEDS[signal], TOKENS) if encoding == "protobuf" else mutated(JSON_SEEDS[signal], JSON_TOKENS)
    )
    content_type = "application/x-protobuf" if encoding == "protobuf" else "application/json"

    @relaxed
    @given(st.one_of(bodies, st.binary(max_size=200)), st.sampled_from(["", "gzip", "wrong", "unknown"]))
    def sent(body: bytes, coding: str) -> None:
        headers = {"Content-Type": content_type}
        if coding:
            headers["Content-Encoding"] = "gzip" if coding == "wrong" else coding
        connection.request("POST", f"/v1/{signal}", gzip.compress(body, 1) if coding == "gzip" else body, headers)
        response = connection.getresponse()
        response.read()
        statuses[response.status] += 1
        assert response.status in (200, 400, 413)

    sent()
    connection.close()
    kept.batches.clear()
    post_good(receiver)
    assert len(kept.rows("span")) == 1 and statuses[200] and statuses[400]
    assert peak_mb() - before < GROWTH_MB


def post_good(receiver: Receiver) -> None:
    connection = http.client.HTTPConnection(receiver.http_address, timeout=20)
    connection.request("POST", "/v1/traces", GOOD, {"Content-Type": "application/x-protobuf"})
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("service", SERVICES)
def test_the_grpc_door_survives_anything(doors: tuple[Receiver, Kept], service: str) -> None:
    receiver, kept = doors
    before, codes = peak_mb(), Counter[str]()
    with grpc.insecure_channel(receiver.grpc_address) as channel:
        export = channel.unary_unary(f"/{service}/Export")

        @relaxed
        @given(st.one_of(mutated(PROTOBUF_SEEDS[SERVICES[service]], TOKENS), st.binary(max_size=200)))
        def sent(body: bytes) -> None:
            try:
                export(body, timeout=20)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT

        sent()
    kept.batches.clear()
    post_good(receiver)
    assert len(kept.rows("span")) == 1 and codes["OK"] and codes["INVALID_ARGUMENT"]
    assert peak_mb() - before < GROWTH_MB
