"""The gRPC door, by real calls over loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from correlator.doors.grpc_door import SERVICES, UNREAD
from correlator.doors.receive import Receiver
from tests.correlator.doors import Kept, open_doors, trace_request
from tests.waiting import until

TRACES = next(name for name, signal in SERVICES.items() if signal == "traces")
BODY = trace_request(3).SerializeToString()
UNLIMITED = [("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def doors() -> Iterator[tuple[Receiver, Kept]]:
    with open_doors(correlator_max_request_mb=2) as opened:
        yield opened


@pytest.fixture
def kept(doors: tuple[Receiver, Kept]) -> Kept:
    doors[1].batches.clear()
    return doors[1]


def export(receiver: Receiver, body: bytes, service: str = TRACES, **more: Any) -> bytes:
    with grpc.insecure_channel(receiver.grpc_address, options=UNLIMITED) as channel:
        return bytes(channel.unary_unary(f"/{service}/Export")(body, timeout=20, **more))


def refused(receiver: Receiver, body: bytes, service: str = TRACES, **more: Any) -> tuple[grpc.StatusCode, Status]:
    with pytest.raises(grpc.RpcError) as caught:
        export(receiver, body, service, **more)
    details = dict(caught.value.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return caught.value.code(), Status.FromString(details)


@pytest.mark.parametrize("service", SERVICES)
def test_an_empty_request_is_a_success_and_garbage_is_a_final_invalid_argument(
    doors: tuple[Receiver, Kept], service: str
) -> None:
    assert export(doors[0], b"", service) == b""
    code, status = refused(doors[0], b"\xff\xff\xff garbage", service)
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "protobuf" in status.message and not status.details
    assert export(doors[0], b"", service) == b""


@pytest.mark.parametrize(
    "compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate]
)
def test_spans_are_taken_in_every_compression(doors: tuple[Receiver, Kept], kept: Kept, compression: Any) -> None:
    assert export(doors[0], BODY, compression=compression) == b""
    assert len(kept.rows("span")) == 3


def test_a_message_above_the_limit_is_resource_exhausted_also_as_a_bomb(doors: tuple[Receiver, Kept]) -> None:
    for body, compression in ((bytes(3 << 20), None), (bytes(100 << 20), grpc.Compression.Gzip)):
        code, status = refused(doors[0], body, compression=compression)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and not status.details  # Without RetryInfo it is final.
    assert export(doors[0], BODY) == b""


def test_what_grpc_refuses_before_it_is_read_is_counted() -> None:
    with open_doors(correlator_max_request_mb=2) as (receiver, _):
        assert refused(receiver, bytes(3 << 20))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        until(lambda: receiver.losses == {UNREAD: 1})
        assert export(receiver, BODY) == b"" and export(receiver, b"") == b""
        refused(receiver, b"\xff")
        assert receiver.losses == {UNREAD: 1, "malformed request": 1}


def test_busy_is_unavailable_with_the_time_to_come_again(doors: tuple[Receiver, Kept], kept: Kept) -> None:
    kept.busy = True
    try:
        code, status = refused(doors[0], BODY)
    finally:
        kept.busy = False
    info = RetryInfo()
    assert code == grpc.StatusCode.UNAVAILABLE and status.details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 1500


def test_overload_is_resource_exhausted_with_the_time_to_come_again() -> None:
    with open_doors(correlator_memory_limit_mb=4, correlator_max_request_mb=8) as (receiver, kept):
        kept.gate.clear()
        large = trace_request(1, "x" * (4 << 20)).SerializeToString()
        first = threading.Thread(target=export, args=(receiver, large))
        first.start()
        while not any(r.value for r in receiver.readings() if r.name == "warpline.door.open_requests"):
            pass
        code, status = refused(receiver, large)
        kept.gate.set()
        first.join()
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and status.details[0].Is(RetryInfo.DESCRIPTOR)


def test_rejected_spans_are_a_partial_success(doors: tuple[Receiver, Kept], kept: Kept) -> None:
    request = trace_request(3)
    request.resource_spans[0].scope_spans[0].spans[0].span_id = b""
    partial = ExportTraceServiceResponse.FromString(export(doors[0], request.SerializeToString())).partial_success
    assert partial.rejected_spans == 1 and "span id" in partial.error_message
    assert len(kept.rows("span")) == 2


def test_a_bug_is_internal_and_the_door_stays_open(doors: tuple[Receiver, Kept], kept: Kept) -> None:
    kept.error = RuntimeError("a bug")
    try:
        assert refused(doors[0], BODY)[0] == grpc.StatusCode.INTERNAL
    finally:
        kept.error = None
    assert export(doors[0], BODY) == b""


def test_an_unknown_method_is_unimplemented(doors: tuple[Receiver, Kept]) -> None:
    assert refused(doors[0], BODY, "some.other.Service")[0] == grpc.StatusCode.UNIMPLEMENTED


def test_health_is_serving_until_the_doors_close() -> None:
    with open_doors() as (receiver, kept), grpc.insecure_channel(receiver.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=TRACES), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        kept.gate.clear()
        call = channel.unary_unary(f"/{TRACES}/Export").future(BODY, timeout=20)
        while not any(r.value for r in receiver.readings() if r.name == "warpline.door.open_requests"):
            pass
        closing = threading.Thread(target=receiver.close)
        closing.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        kept.gate.set()
        assert call.result() == b"" and len(kept.rows("span")) == 3
        closing.join()
