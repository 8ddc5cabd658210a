"""GPU readings as OTLP metrics, against a real HTTP server: names, units and attributes, and an endpoint that is away."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from collectors import dcgm
from collectors.wire import prometheus
from demo.loopback import served
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
            body = gzip.decompress(self.rfile.read(int(self.headers["content-length"])))
            answer = status[-1]
            if self.path == "/v1/metrics" and answer == 200:
                found.extend(ExportMetricsServiceRequest.FromString(body).resource_metrics)
            self.send_response(answer)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with served(Handler) as port:
        yield f"http://127.0.0.1:{port}", found


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


def later(batch: Batch, seconds: int) -> Batch:
    """The same readings, later; every GPU has used 100 J a second since."""
    at = pc.add(batch.rows.column("time_ns"), seconds * 10**9)
    is_energy = pc.equal(batch.rows.column("metric"), "hw.energy")
    value = pc.if_else(is_energy, pc.add(batch.rows.column("value"), 100.0 * seconds), batch.rows.column("value"))
    names = batch.rows.schema.names
    rows = batch.rows.set_column(names.index("time_ns"), "time_ns", at).set_column(names.index("value"), "value", value)
    return Batch(batch.table, pa.RecordBatch.from_arrays(rows.columns, schema=batch.rows.schema))


def test_deltas_of_energy_add_up_though_the_endpoint_was_away_and_what_stood_still_is_not_told(
    shared_data: Path,
) -> None:
    batch, status = samples(shared_data / "dcgm/metrics/issue138-v100-2020-no-hostname-empty-pod.prom"), [200]
    with endpoint(status) as (address, found):
        sent = GpuMetrics(address, delta=True)
        sent.take(batch)
        until(lambda: len(found) == 1)
        status.append(503)
        sent.take(later(batch, 15))
        until(lambda: sent.lost == batch.rows.num_rows)
        status.append(200)
        sent.take(later(batch, 30))
        until(lambda: len(found) == 2)
        sent.take(later(batch, 45))
        sent.close()
    sums = [{m.name: m.sum for m in each.scope_metrics[0].metrics if m.HasField("sum")} for each in found]
    assert sums[0] == {}, "nobody knows since when a GPU has counted"
    assert [set(each) for each in sums[1:]] == [{"hw.energy"}] * 2
    start_ns = batch.rows.column("time_ns")[0].as_py()
    for each, (begin, end) in zip(sums[1:], ((0, 30), (30, 45)), strict=True):
        energy = each["hw.energy"]
        assert energy.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
        for point in energy.data_points:
            assert (point.start_time_unix_nano, point.time_unix_nano) == (
                start_ns + begin * 10**9,
                start_ns + end * 10**9,
            )
            assert round(point.as_double, 3) == 100.0 * (end - begin)
