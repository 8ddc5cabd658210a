"""Real OTLP senders: the OpenTelemetry SDK's exporters, and rotel, an agent written in Rust."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from correlator.doors.receive import Receiver
from tests.correlator.doors import Kept, open_doors
from warpline.otlp import read_attributes

RESOURCE = Resource({"service.name": "api", "k8s.pod.name": "api-0", "answer": 42})


@pytest.fixture
def doors() -> Iterator[tuple[Receiver, Kept]]:
    with open_doors() as opened:
        yield opened


def exporter(receiver: Receiver, wire: str, over_grpc: Any, over_http: Any, path: str) -> Any:
    if wire == "grpc":
        return over_grpc(endpoint=f"http://{receiver.grpc_address}", insecure=True, timeout=20)
    return over_http(endpoint=f"http://{receiver.http_address}/v1/{path}", timeout=20, compression=Compression.Gzip)


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_the_sdks_spans_arrive_with_their_attributes(doors: tuple[Receiver, Kept], wire: str) -> None:
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    sender = exporter(doors[0], wire, GrpcSpans, HttpSpans, "traces")
    provider.add_span_processor(BatchSpanProcessor(sender, max_queue_size=8192, max_export_batch_size=512))
    tracer = provider.get_tracer("test", "1.5")
    with tracer.start_as_current_span("parent", attributes={"gen_ai.request.model": "m", "sizes": [1, 2], "ok": True}):
        for i in range(997):
            with tracer.start_as_current_span("child", attributes={"http.response.status_code": i, "share": i / 7}):
                pass
    provider.shutdown()
    rows = doors[1].rows("span")
    assert len(rows) == len({row["span_id"] for row in rows}) == 998
    parent = next(row for row in rows if row["name"] == "parent")
    assert (parent["service"], parent["pod"], parent["model"], parent["scope"]) == ("api", "api-0", "m", "test")
    assert read_attributes(parent["attributes"]) == [("sizes", [1, 2]), ("ok", True)]
    assert ("answer", 42) in read_attributes(parent["resource"])
    children = [row for row in rows if row["name"] == "child"]
    assert {row["parent_span_id"] for row in children} == {parent["span_id"]}
    assert {row["http_status"] for row in children} == set(range(997))
    assert all(dict(read_attributes(row["attributes"])) == {"share": row["http_status"] / 7} for row in children)


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_the_sdks_metrics_and_logs_arrive(doors: tuple[Receiver, Kept], wire: str) -> None:
    reader = PeriodicExportingMetricReader(exporter(doors[0], wire, GrpcMetrics, HttpMetrics, "metrics"), 60_000)
    meters = MeterProvider([reader], RESOURCE, shutdown_on_exit=False)
    meters.get_meter("test").create_counter("tokens", "{token}").add(23, {"phase": "prefill"})
    meters.get_meter("test").create_histogram("delay", "s").record(0.5)
    meters.shutdown()
    logs = LoggerProvider(RESOURCE, shutdown_on_exit=False)
    logs.add_log_record_processor(BatchLogRecordProcessor(exporter(doors[0], wire, GrpcLogs, HttpLogs, "logs")))
    record = LogRecord(timestamp=time.time_ns(), body={"n": 3}, severity_number=SeverityNumber.WARN, event_name="hello")
    logs.get_logger("test").emit(record)
    logs.shutdown()
    points = {row["name"]: row for row in doors[1].rows("metric_point")}
    assert (points["tokens"]["whole_value"], points["tokens"]["kind"], points["tokens"]["monotonic"]) == (
        23,
        "sum",
        True,
    )
    assert (points["delay"]["count"], points["delay"]["value"], points["delay"]["unit"]) == (1, 0.5, "s")
    (row,) = doors[1].rows("log_record")
    assert (row["event_name"], row["severity"], row["body"], row["body_type"]) == ("hello", "WARN", '{"n":3}', "kvlist")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def rotel(doors: tuple[Receiver, Kept], tmp_path: Path) -> Iterator[str]:
    """A running rotel that forwards to the HTTP door; gives its gRPC address."""
    binary = Path(sys.prefix) / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "rotel" / "rotel-agent"
    if not binary.exists():
        pytest.skip(f"rotel is not installed at {binary}")
    address = f"127.0.0.1:{free_port()}"
    command = [str(binary), "start", "--otlp-grpc-endpoint", address]
    command += ["--otlp-http-endpoint", f"127.0.0.1:{free_port()}", "--exporter", "otlp"]
    command += ["--otlp-exporter-endpoint", f"http://{doors[0].http_address}", "--otlp-exporter-protocol", "http"]
    command += ["--otlp-exporter-compression", "gzip", "--otlp-exporter-retry-max-elapsed-time", "60s"]
    command += ["--otlp-exporter-retry-initial-backoff", "200ms", "--otlp-exporter-retry-max-backoff", "1s"]
    with (tmp_path / "rotel.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for_port(address)
            yield address
        finally:
            process.terminate()
            process.wait(20)
            shutil.copy(tmp_path / "rotel.log", tmp_path / "rotel.txt")


def wait_for_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    for _ in range(200):
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nothing listens at {address}")


def test_rotel_through_503s_brings_everything_once(
    doors: tuple[Receiver, Kept], rotel: str, caplog: pytest.LogCaptureFixture
) -> None:
    receiver, kept = doors
    kept.busy = True
    provider = TracerProvider(shutdown_on_exit=False)
    sender = GrpcSpans(endpoint=f"http://{rotel}", insecure=True, timeout=20)
    provider.add_span_processor(BatchSpanProcessor(sender, max_queue_size=8192, schedule_delay_millis=100))
    tracer, sent = provider.get_tracer("test"), set()
    with caplog.at_level(logging.CRITICAL):
        for i in range(4999):
            with tracer.start_as_current_span(f"s{i}") as span:
                sent.add(span.get_span_context().span_id)
        provider.force_flush(20_000)
        while not any(code == "503" for _, _, code in receiver.intake.requests):
            time.sleep(0.05)
        kept.busy = False
        deadline = time.monotonic() + 30
        while len(found := kept.rows("span")) < len(sent) and time.monotonic() < deadline:
            time.sleep(0.1)
        provider.shutdown()
    assert len(found) == len(sent) and {row["span_id"] for row in found} == sent
