"""GPU readings as OTLP metrics, against a real HTTP server: names, units and attributes, and an endpoint that is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from collectors import dcgm
from collectors.wire import prometheus
from tests.waiting import until
from warpline.batch import Batch
from warpline.gpu_metrics import GpuMetrics

A800 = "GPU-1f027ee8-6e1e-2b8c-0108-3d370e5f0418"


def samples(file: Path) -> Batch:
    page = prometheus.parse(file.read_text())
    node = dcgm.Node("node-a")
    list(node.devices(1, page.series, ()))
    return node.samples(1_700_000_000_000_000_000, page)[0]


@contextmanager
def endpoint(status: list[int]) -> Iterator[tuple[str, list[Any]]]:
    """An OTLP endpoint that answers with the last status; yields its address and the metrics that it was sent."""
    found: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/metrics" and status[-1] == 200:
                found.extend(ExportMetricsServiceRequest.FromString(body).resource_metrics)
            self.send_response(status[-1])
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_readings_are_metrics_of_the_semantic_conventions(shared_data: Path) -> None:
    with endpoint([200]) as (address, found):
        sent = GpuMetrics(address)
        sent.take(samples(shared_data / "dcgm/metrics/a800-8gpu-mig-2g.20gb-535.prom"))
        sent.take(samples(shared_data / "dcgm/metrics/issue138-v100-2020-no-hostname-empty-pod.prom"))
        sent.close()
    assert sent.lost == 0
    assert {each.key: each.value.string_value for each in found[0].resource.attributes}["k8s.node.name"] == "node-a"
    metrics, other = ({each.name: each for each in one.scope_metrics[0].metrics} for one in found)
    units = {name: metrics[name].unit for name in ("hw.temperature", "warpline.gpu.clock", "warpline.gpu.pipe.active")}
    assert units == {"hw.temperature": "Cel", "warpline.gpu.clock": "Hz", "warpline.gpu.pipe.active": "1"}
    energy = other["hw.energy"]
    assert (energy.unit, energy.sum.is_monotonic) == ("J", True)
    assert round(energy.sum.data_points[0].as_double, 3) == 4335301.032
    clocks = [dict(_told(each), value=each.as_double) for each in metrics["warpline.gpu.clock"].gauge.data_points]
    whole = [each for each in clocks if each["hw.id"] == A800 and each["warpline.gpu.part"] == "sm"]
    assert [(each["value"], "warpline.gpu.instance" in each) for each in whole] == [(1410e6, False)], "told once"
    busy = [_told(each) for each in metrics["warpline.gpu.pipe.active"].gauge.data_points]
    assert {each["warpline.gpu.instance"] for each in busy if each["hw.id"] == A800} >= {"3", "5", "6"}


def _told(point: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in point.attributes}


def test_an_endpoint_that_refuses_costs_its_readings_and_heals(shared_data: Path) -> None:
    batch, status = samples(shared_data / "dcgm/metrics/h100-8gpu-dynamo-vllm-pods-580.prom"), [503]
    with endpoint(status) as (address, found):
        sent = GpuMetrics(address)
        sent.take(batch)
        until(lambda: sent.lost == batch.rows.num_rows)
        status.append(200)
        sent.take(batch)
        until(lambda: bool(found))
        sent.close()
    assert sent.lost == batch.rows.num_rows
