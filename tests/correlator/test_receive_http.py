"""The HTTP door, by real requests over loopback."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from correlator.doors.receive import Receiver
from tests.correlator.doors import NOW, Kept, open_doors, trace_request

PROTOBUF, JSON = "application/x-protobuf", "application/json"
PATHS = ("/v1/traces", "/v1/metrics", "/v1/logs")
BODY = trace_request(3).SerializeToString()
JSON_BODY = json.dumps(
    {
        "resourceSpans": [
            {
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "traceId": "5B8EFFF798038103D269B633813FC60C",
                                "spanId": "eee19b7ec3c1b174",
                                "name": "chat",
                                "startTimeUnixNano": str(NOW),
                                "endTimeUnixNano": NOW + 1000,
                                "kind": 2,
                                "unknownKey": {"x": 1},
                            }
                        ]
                    }
                ]
            }
        ]
    }
).encode()


@pytest.fixture(scope="module")
def doors() -> Iterator[tuple[Receiver, Kept]]:
    with open_doors(correlator_max_request_mb=2) as opened:
        yield opened


@pytest.fixture
def kept(doors: tuple[Receiver, Kept]) -> Kept:
    doors[1].batches.clear()
    return doors[1]


def send(
    receiver: Receiver, path: str, body: Any, content_type: str | None = PROTOBUF, method: str = "POST", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(receiver.http_address, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named | ({"Content-Type": content_type} if content_type else {}))
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("method", "content_type", "status", "text"),
    [
        ("POST", None, 415, b"415 unsupported media type, supported: [application/json, application/x-protobuf]"),
        ("POST", "invalid", 415, b"415 unsupported media type, supported: [application/json, application/x-protobuf]"),
        ("PATCH", JSON, 405, b"405 method not allowed, supported: [POST]"),
        ("GET", JSON, 405, b"405 method not allowed, supported: [POST]"),
    ],
)
def test_a_request_of_the_wrong_kind_is_told_so_as_the_opentelemetry_collector_tells_it(
    doors: tuple[Receiver, Kept], path: str, method: str, content_type: str | None, status: int, text: bytes
) -> None:
    found, body, headers = send(doors[0], path, b"{}", content_type, method)
    assert (found, body, headers["Content-Type"]) == (status, text, "text/plain")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "content_type", "headers"),
    [
        (b"garbage that is no protobuf", PROTOBUF, {}),
        (b"{not json", JSON, {}),
        (b"[]", JSON, {}),
        (BODY, PROTOBUF, {"Content_Encoding": "snappy9"}),
        (BODY, PROTOBUF, {"Content_Encoding": "gzip"}),
        (gzip.compress(BODY)[:-6], PROTOBUF, {"Content_Encoding": "gzip"}),
        (b"\x28\xb5\x2f\xfd garbage", PROTOBUF, {"Content_Encoding": "zstd"}),
    ],
)
def test_a_body_that_cannot_be_read_is_a_final_400_with_a_status_in_the_requests_encoding(
    doors: tuple[Receiver, Kept], kept: Kept, path: str, body: bytes, content_type: str, headers: dict[str, str]
) -> None:
    lost = doors[0].losses.get("malformed request", 0)
    status, answer, found = send(doors[0], path, body, content_type, **headers)
    assert (status, found["Content-Type"]) == (400, content_type)
    if content_type == JSON:
        assert json.loads(answer)["code"] == 3
    else:
        assert Status.FromString(answer).code == 3 and Status.FromString(answer).message
    assert doors[0].losses["malformed request"] == lost + 1
    assert send(doors[0], "/v1/traces", BODY)[0] == 200 and len(kept.rows("span")) == 3


def test_an_unknown_path_is_a_404(doors: tuple[Receiver, Kept]) -> None:
    assert send(doors[0], "/v1/other", BODY)[0] == 404
    assert send(doors[0], "/v1/other", None, method="GET")[0] == 404


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_request_is_a_success(doors: tuple[Receiver, Kept], path: str) -> None:
    assert send(doors[0], path, b"")[:2] == (200, b"")
    assert send(doors[0], path, b"{}", JSON)[:2] == (200, b"{}")


@pytest.mark.parametrize("content_type", [JSON, "application/json; charset=utf-8", "APPLICATION/JSON"])
def test_json_is_taken_however_its_content_type_is_written(
    doors: tuple[Receiver, Kept], kept: Kept, content_type: str
) -> None:
    assert send(doors[0], "/v1/traces", JSON_BODY, content_type)[:2] == (200, b"{}")
    assert [row["span_id"] for row in kept.rows("span")] == [0xEEE19B7EC3C1B174]


def chunks(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), 50):
        yield body[at : at + 50]


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (BODY, "identity"),
        (gzip.compress(BODY), "gzip"),
        (gzip.compress(BODY[:100]) + gzip.compress(BODY[100:]), "gzip"),
        (zlib.compress(BODY), "deflate"),
        (pa.Codec("zstd").compress(BODY, asbytes=True), "zstd"),
    ],
)
@pytest.mark.parametrize("framed", ["by length", "in chunks"])
def test_every_coding_and_framing_of_a_body_is_read(
    doors: tuple[Receiver, Kept], kept: Kept, body: bytes, coding: str, framed: str
) -> None:
    sent = body if framed == "by length" else chunks(body)
    assert send(doors[0], "/v1/traces", sent, Content_Encoding=coding)[0] == 200
    assert len(kept.rows("span")) == 3


def test_a_request_that_is_sent_again_has_the_same_batch_ids(doors: tuple[Receiver, Kept], kept: Kept) -> None:
    for _ in range(2):
        assert send(doors[0], "/v1/traces", gzip.compress(BODY), Content_Encoding="gzip")[0] == 200
    assert send(doors[0], "/v1/traces", BODY)[0] == 200
    assert len(kept.rows("span")) == 3


def test_a_body_above_the_limit_is_refused_and_the_answer_arrives(doors: tuple[Receiver, Kept]) -> None:
    for body in (bytes(3 << 20), chunks(bytes(3 << 20))):
        status, answer, headers = send(doors[0], "/v1/traces", body)
        assert (status, Status.FromString(answer).code, headers["Connection"]) == (413, 8, "close")


@pytest.mark.parametrize("coding", ["gzip", "zstd", "deflate"])
def test_a_decompression_bomb_stops_at_the_limit(doors: tuple[Receiver, Kept], coding: str) -> None:
    zeros = bytes(200 << 20)
    made = {
        "gzip": lambda: gzip.compress(zeros, 6),
        "deflate": lambda: zlib.compress(zeros),
        "zstd": lambda: pa.Codec("zstd").compress(zeros, asbytes=True),
    }
    bomb = made[coding]()
    assert len(bomb) < 2 << 20
    status, answer, _ = send(doors[0], "/v1/traces", bomb, Content_Encoding=coding)
    assert status == 413 and "decompression" in Status.FromString(answer).message
    assert send(doors[0], "/v1/traces", BODY)[0] == 200


def test_spans_without_valid_ids_are_a_partial_success(doors: tuple[Receiver, Kept], kept: Kept) -> None:
    request = trace_request(3)
    request.resource_spans[0].scope_spans[0].spans[1].trace_id = bytes(16)
    status, answer, _ = send(doors[0], "/v1/traces", request.SerializeToString())
    partial = ExportTraceServiceResponse.FromString(answer).partial_success
    assert (status, partial.rejected_spans, len(kept.rows("span"))) == (200, 1, 2)
    assert "trace id" in partial.error_message
    tree = json.loads(JSON_BODY)
    tree["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["spanId"] = "00"
    status, answer, _ = send(doors[0], "/v1/traces", json.dumps(tree), JSON)
    assert (status, json.loads(answer)["partialSuccess"]["rejectedSpans"]) == (200, "1")


def test_busy_is_a_503_that_says_when_to_come_again(doors: tuple[Receiver, Kept], kept: Kept) -> None:
    kept.busy = True
    try:
        status, answer, headers = send(doors[0], "/v1/traces", BODY)
        json_status, json_answer, _ = send(doors[0], "/v1/traces", JSON_BODY, JSON)
    finally:
        kept.busy = False
    assert (status, Status.FromString(answer).code, headers["Retry-After"]) == (503, 14, "2")
    assert (json_status, json.loads(json_answer)) == (503, {"code": 14, "message": "the spool is full"})
    assert not kept.rows("span")


def test_a_bug_is_a_500_and_the_door_stays_open(doors: tuple[Receiver, Kept], kept: Kept) -> None:
    kept.error = RuntimeError("a bug")
    try:
        assert send(doors[0], "/v1/traces", BODY)[0] == 500
    finally:
        kept.error = None
    assert send(doors[0], "/v1/traces", BODY)[0] == 200


def raw(receiver: Receiver, sent: bytes, end: bool = False) -> bytes:
    host, _, port = receiver.http_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        if end:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
            if not end and b"\r\n\r\n" in received:
                break
        return received


HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 1e3\r\n\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: bogus\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"Content-Length: 100\r\n\r\nonly this",
    ],
)
def test_a_body_that_is_framed_wrongly_or_broken_off_is_a_400_and_stores_nothing(
    doors: tuple[Receiver, Kept], kept: Kept, rest: bytes
) -> None:
    answer = raw(doors[0], HEAD + rest, end=True)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"Connection: close" in answer
    assert not kept.rows("span")
    assert send(doors[0], "/v1/traces", BODY)[0] == 200


def test_one_connection_carries_many_requests_good_and_bad(doors: tuple[Receiver, Kept], kept: Kept) -> None:
    connection = http.client.HTTPConnection(doors[0].http_address, timeout=20)
    statuses = []
    for body, kind in (
        (BODY, PROTOBUF),
        (b"\xff\xff", PROTOBUF),
        (BODY, "text/html"),
        (JSON_BODY, JSON),
        (b"", PROTOBUF),
    ):
        connection.request("POST", "/v1/traces", body, {"Content-Type": kind})
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()
    assert statuses == [200, 400, 415, 200, 200]
    assert len(kept.rows("span")) == 4


def test_requests_beyond_the_doors_memory_are_asked_to_come_again() -> None:
    with open_doors(correlator_memory_limit_mb=4, correlator_max_request_mb=8) as (receiver, kept):
        kept.gate.clear()
        large = trace_request(1, "x" * (4 << 20)).SerializeToString()
        statuses: list[int] = []
        first = threading.Thread(target=lambda: statuses.append(send(receiver, "/v1/traces", large)[0]))
        first.start()
        while not any(r.value for r in receiver.readings() if r.name == "warpline.door.open_requests"):
            pass
        status, _, headers = send(receiver, "/v1/traces", large)
        kept.gate.set()
        first.join()
        assert (status, headers["Retry-After"], statuses) == (429, "1", [200])
        assert send(receiver, "/v1/traces", large)[0] == 200


def test_closing_lets_the_request_in_progress_be_acknowledged_and_refuses_the_next() -> None:
    with open_doors() as (receiver, kept):
        kept.gate.clear()
        connection = http.client.HTTPConnection(receiver.http_address, timeout=20)
        connection.request("POST", "/v1/traces", BODY, {"Content-Type": PROTOBUF})
        while not any(r.value for r in receiver.readings() if r.name == "warpline.door.open_requests"):
            pass
        closing = threading.Thread(target=receiver.close)
        closing.start()
        while not receiver.intake.closing:
            pass
        late, _, headers = send(receiver, "/v1/traces", BODY)
        kept.gate.set()
        response = connection.getresponse()
        response.read()
        closing.join()
        connection.close()
        assert (late, headers["Retry-After"], response.status, response.headers["Connection"]) == (
            503,
            "1",
            200,
            "close",
        )
        assert len(kept.rows("span")) == 3


def test_what_metrics_say_was_lost_is_in_the_loss_table() -> None:
    with open_doors() as (receiver, kept):
        bad = trace_request(5)
        for span in bad.resource_spans[0].scope_spans[0].spans[:2]:
            span.span_id = b"short"
        send(receiver, "/v1/traces", bad.SerializeToString())
        send(receiver, "/v1/traces", b"\xff")
        content = trace_request(1, seed=9)
        content.resource_spans[0].scope_spans[0].spans[0].attributes.add(
            key="gen_ai.prompt"
        ).value.string_value = "secret"
        send(receiver, "/v1/traces", content.SerializeToString())
        receiver.close()
        table = {row["reason"]: row["lost"] for row in kept.rows("loss")}
        metrics = {r.labels["reason"]: r.value for r in receiver.readings() if r.name == "warpline.door.lost"}
        assert table == metrics == {"span with invalid ids": 2, "malformed request": 1, "content redacted": 1}
