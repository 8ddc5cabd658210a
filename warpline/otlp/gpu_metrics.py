"""Readings of GPUs as OTLP metrics, for whoever knows no Arrow: names, units and attributes of the semantic conventions.

`hw.*` is in development (semantic conventions 1.44); what it has no name for is `warpline.gpu.*`. A value of a whole device
that its exporter repeats for each MIG instance is one point, so that nothing downstream sums it up.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from warpline.batch import Batch
from warpline.deltas import Deltas

_DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
_CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
_UNITS = (
    ("hw.power", "W"),
    ("warpline.gpu.power", "W"),
    ("hw.energy", "J"),
    ("hw.temperature", "Cel"),
    ("hw.gpu.memory.utilization", "1"),
    ("hw.gpu.memory", "By"),
    ("warpline.gpu.memory.copy", "1"),
    ("warpline.gpu.memory", "By"),
    ("hw.gpu.io", "By"),
    ("warpline.gpu.xgmi.io", "By"),
    ("warpline.gpu.pcie.throughput", "By/s"),
    ("warpline.gpu.clock.reasons", "1"),
    ("warpline.gpu.clock", "Hz"),
    ("warpline.gpu.throttled", "s"),
    ("hw.errors", "{error}"),
)
"""Beginning of a metric's name → its UCUM unit; the first that fits, else 1."""
_PARTS = {
    "hw.gpu.utilization": "hw.gpu.task",
    "hw.gpu.io": "network.io.direction",
    "hw.errors": "error.type",
    "hw.temperature": "hw.sensor_location",
    "hw.temperature.limit": "hw.limit_type",
}
"""Metric → the attribute that says which part of it a point is of; else `warpline.gpu.part`."""
_OWNER = {"pod_uid": "k8s.pod.uid", "pod": "k8s.pod.name", "namespace": "k8s.namespace.name"}
_OWNER |= {"container": "k8s.container.name"}


def encode(batch: Batch, deltas: Deltas | None = None) -> bytes:
    """Return a batch of `gpu_sample` as the body of an OTLP metrics request, times as they are (node time).

    With `deltas` a counter tells what it added since it was last taken, and nothing where it stood still; else its sum.
    """
    request = ExportMetricsServiceRequest()
    made: dict[tuple[str, bool], Any] = {}
    told: set[tuple[Any, ...]] = set()
    scopes: dict[str, Any] = {}
    for row in batch.rows.to_pylist():
        key = (row["node"], row["gpu_uuid"], row["metric"], row["part"], row["time_ns"])
        if row["device_wide"] and key in told:
            continue
        told.add(key)
        counts, start_ns = bool(row["monotonic"]), 0
        if counts and deltas is not None:
            instance = None if row["device_wide"] else row["gpu_instance"]
            added = deltas.since((*key[:-1], instance), row["time_ns"], row["value"])
            if added is None:
                continue
            start_ns, row["value"] = added
        scope = scopes.get(row["node"]) or scopes.setdefault(row["node"], _scope(request, row["node"]))
        place = (f"{row['node']}/{row['metric']}", counts)
        points = made.get(place)
        if points is None:
            points = made[place] = _points(scope, row["metric"], counts, deltas is not None)
        _add(points.add(start_time_unix_nano=start_ns), row)
    return bytes(request.SerializeToString())


def _scope(request: Any, node: str) -> Any:
    resource = request.resource_metrics.add()
    for name, value in (("service.name", "warpline-collector"), ("k8s.node.name", node)):
        resource.resource.attributes.add(key=name).value.string_value = value
    scope = resource.scope_metrics.add()
    scope.scope.name = "warpline"
    return scope


def _points(scope: Any, metric: str, counts: bool, delta: bool) -> Any:
    unit = next((unit for beginning, unit in _UNITS if metric.startswith(beginning)), "1")
    made = scope.metrics.add(name=metric, unit=unit)
    if not counts:
        return made.gauge.data_points
    made.sum.is_monotonic = True
    made.sum.aggregation_temporality = _DELTA if delta else _CUMULATIVE
    return made.sum.data_points


def _add(point: Any, row: dict[str, Any]) -> None:
    point.time_unix_nano, point.as_double = max(row["time_ns"], 0), row["value"]
    told = {"hw.id": row["gpu_uuid"], "hw.type": "gpu"}
    if row["part"] is not None:
        told[_PARTS.get(row["metric"], "warpline.gpu.part")] = row["part"]
    if row["gpu_instance"] is not None and not row["device_wide"]:
        told["warpline.gpu.instance"] = str(row["gpu_instance"])
    told |= {name: row[column] for column, name in _OWNER.items() if row[column] is not None}
    for name, value in told.items():
        point.attributes.add(key=name).value.string_value = value
    if row["simulated"]:
        point.attributes.add(key="warpline.simulated").value.bool_value = True
