"""OTLP/gRPC: generic handlers that are given the bytes, so that malformed protobuf is INVALID_ARGUMENT and not INTERNAL."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from correlator.doors import answer
from correlator.doors.access import Access
from correlator.doors.intake import Intake, Refused
from warpline.errors import SettingsError
from warpline.otlp import Malformed, Signal

log = logging.getLogger(__name__)

UNREAD = "request too large or broken off"

SERVICES: dict[str, Signal] = {
    "opentelemetry.proto.collector.trace.v1.TraceService": "traces",
    "opentelemetry.proto.collector.metrics.v1.MetricsService": "metrics",
    "opentelemetry.proto.collector.logs.v1.LogsService": "logs",
}

_THREADS = 8


class _Call:
    """One call that has begun. gRPC itself refuses a message above the limit, and says so to the sender alone: a call that
    ends before its message was handed over is counted when gRPC lets go of it."""

    def __init__(self, method: Any, intake: Intake) -> None:
        self._method, self._intake, self._read = method, intake, False

    def __call__(self, body: bytes, context: Any) -> Any:
        self._read = True
        return self._method(body, context)

    def __del__(self) -> None:
        if not self._read:
            self._intake.lost({UNREAD: 1})


class _Calls(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Makes a `_Call` of each export that begins."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Return the handler of the method that is called."""
        handler = continuation(handler_call_details)
        if handler is None or handler_call_details.method.strip("/").partition("/")[0] not in SERVICES:
            return handler
        return grpc.unary_unary_rpc_method_handler(_Call(handler.unary_unary, self._intake))


class GrpcDoor:
    """The server; `begin` starts it, `close` ends it."""

    def __init__(self, address: tuple[str, int], access: Access, intake: Intake) -> None:
        """Bind the address; raises SettingsError where it is taken."""
        self._access, self._intake = access, intake
        limit = intake.limit_bytes
        options = [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_metadata_size", 16 << 10),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        pool = futures.ThreadPoolExecutor(_THREADS, "door-grpc")
        self._server = grpc.server(pool, interceptors=[_Calls(intake)], options=options)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for service, signal in SERVICES.items():
            method = grpc.unary_unary_rpc_method_handler(self._export(signal))
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
        self.port = self._bind(*address)

    def _bind(self, host: str, port: int) -> int:
        where = f"[{host}]:{port}" if ":" in host else f"{host or '0.0.0.0'}:{port}"
        try:
            if not self._access.certificate:
                return int(self._server.add_insecure_port(where))
            pair = (Path(self._access.key).read_bytes(), Path(self._access.certificate).read_bytes())
            authority = Path(self._access.client_ca).read_bytes() if self._access.client_ca else None
            credentials = grpc.ssl_server_credentials([pair], authority, authority is not None)
            return int(self._server.add_secure_port(where, credentials))
        except RuntimeError:
            raise SettingsError(
                f"grpc door: {where} cannot be bound; free it, or set correlator_grpc_address"
            ) from None

    def begin(self) -> None:
        """Start to answer."""
        self._server.start()
        for name in ("", *SERVICES):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def refuse(self) -> None:
        """Tell health checks that no more is taken."""
        self._health.enter_graceful_shutdown()

    def close(self, seconds: float) -> None:
        """Stop, giving calls in progress `seconds` to end."""
        self._server.stop(seconds).wait()

    def _export(self, signal: Signal) -> Callable[[bytes, Any], bytes]:
        def export(body: bytes, context: Any) -> bytes:
            status = self._take(signal, body, context)
            if isinstance(status, bytes):
                self._intake.answered("grpc", signal, "OK")
                return status
            self._intake.answered("grpc", signal, _name(status.code))
            context.abort_with_status(rpc_status.to_status(status))
            raise AssertionError("abort_with_status raises")

        return export

    def _take(self, signal: Signal, body: bytes, context: Any) -> bytes | Status:
        """Return the response, or the status of what went wrong."""
        metadata = dict(context.invocation_metadata())
        if not self._access.tokens.admits(metadata.get("authorization")):
            return Status(code=answer.UNAUTHENTICATED, message="authorization: no token that is known here; send one")
        try:
            with self._intake.room(len(body)):
                return answer.success(signal, self._intake.take(signal, body, "application/x-protobuf"))
        except Malformed as error:
            return Status(code=answer.INVALID, message=str(error))
        except Refused as error:
            return _again(error)
        except Exception:  # A bug must reach the log and be answered; INTERNAL is final, as it would come again.
            log.exception("grpc door: request for %s failed", signal)
            return Status(code=answer.INTERNAL, message="internal error; the correlator's log has more")


def _again(error: Refused) -> Status:
    """Return a status that OTLP senders retry: RetryInfo says when."""
    detail = AnyMessage()
    detail.Pack(
        RetryInfo(retry_delay=Duration(nanos=int(error.retry_after_s % 1 * 1e9), seconds=int(error.retry_after_s)))
    )
    code = answer.EXHAUSTED if error.overload else answer.UNAVAILABLE
    return Status(code=code, message=str(error), details=[detail])


def _name(code: int) -> str:
    return str(next((each.name for each in grpc.StatusCode if each.value[0] == code), code))
