"""What each process says of itself: the same readings on /metrics (prometheus-client) and as OTLP metrics (OpenTelemetry).

A process gives one function that returns its readings; nothing is counted twice or kept in two places. Labels have few
values by design: a source, a reason, a table; never an id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as SdkMetric
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from warpline.deltas import Deltas

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one metric now. `name` is OpenTelemetry's spelling (dots); a counter only grows."""

    name: str
    value: float
    unit: str = "1"
    counter: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    doc: str = ""


Stop = Callable[[], object]
Read = Callable[[], Iterable[Reading]]


class PrometheusReadings:
    """A prometheus-client collector over a process's readings."""

    def __init__(self, read: Read) -> None:
        """Make the collector; register it with a CollectorRegistry."""
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield one metric family for each name."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for each in self._read():
            family = families.get(each.name)
            if family is None:
                kind = CounterMetricFamily if each.counter else GaugeMetricFamily
                family = kind(each.name.replace(".", "_"), each.doc or each.name, labels=sorted(each.labels))
                families[each.name] = family
            family.add_metric([each.labels[name] for name in sorted(each.labels)], each.value)
        yield from families.values()


def registry(read: Read) -> CollectorRegistry:
    """Return a registry that holds the readings alone."""
    made = CollectorRegistry()
    made.register(PrometheusReadings(read))
    return made


def serve_metrics(address: str, read: Read) -> Stop:
    """Serve /metrics at `host:port`; return what stops it."""
    host, _, port = address.rpartition(":")
    server, thread = start_http_server(int(port), host or "127.0.0.1", registry(read))

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is shown at an endpoint: a file with a bearer token, read anew each time, and PEM files; "" for none."""

    token_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def session(self) -> requests.Session:
        """Return the session that shows the token."""

        def show(request: requests.PreparedRequest) -> requests.PreparedRequest:
            with suppress(OSError, IndexError, UnicodeDecodeError):  # The rows' own sender says what ails the file.
                token = Path(self.token_file).read_text(encoding="ascii").split()[0]
                request.headers["authorization"] = f"Bearer {token}"
            return request

        session = requests.Session()
        session.auth = show if self.token_file else None
        return session


class _DeltaExporter(OTLPMetricExporter):
    """Sends counters as what was added since the endpoint last took them."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._deltas = Deltas()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **given: Any
    ) -> MetricExportResult:
        result = super().export(self._added(metrics_data), timeout_millis, **given)
        self._deltas.settle(result is MetricExportResult.SUCCESS)
        return result

    def _added(self, data: MetricsData) -> MetricsData:
        resources = []
        for resource in data.resource_metrics:
            scopes = [replace(each, metrics=list(self._told(each.metrics))) for each in resource.scope_metrics]
            resources.append(replace(resource, scope_metrics=scopes))
        return MetricsData(resources)

    def _told(self, metrics: Iterable[SdkMetric]) -> Iterator[SdkMetric]:
        for each in metrics:
            if not isinstance(each.data, Sum):
                yield each
            elif points := list(self._points(each.name, each.data)):
                yield replace(each, data=Sum(points, AggregationTemporality.DELTA, each.data.is_monotonic))

    def _points(self, name: str, counted: Sum) -> Iterator[NumberDataPoint]:
        for each in counted.data_points:
            series = name, tuple(sorted((each.attributes or {}).items()))
            found = self._deltas.since(series, each.time_unix_nano, each.value, each.start_time_unix_nano)
            if found is not None:
                yield replace(each, start_time_unix_nano=found[0], value=found[1])


def send_metrics(
    endpoint: str,
    service: str,
    node: str,
    read: Read,
    shown: Credentials | None = None,
    every_s: float = 10.0,
    delta: bool = False,
) -> Stop:
    """Send the readings to an OTLP/HTTP endpoint every `every_s`; return what stops it, after one last sending.

    Only metrics that have a reading when this is called are sent; counters as `delta` or as sums.
    """
    shown = shown or Credentials()
    exporter = (_DeltaExporter if delta else OTLPMetricExporter)(
        endpoint=f"{endpoint.rstrip('/')}/v1/metrics",
        timeout=5,
        compression=Compression.Gzip,
        session=shown.session(),
        certificate_file=shown.ca or None,
        client_certificate_file=shown.certificate or None,
        client_key_file=shown.key or None,
    )
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=every_s * 1000)
    resource = Resource.create({"service.name": service, "k8s.node.name": node})
    provider = MeterProvider([reader], resource, shutdown_on_exit=False)
    meter = provider.get_meter("warpline")
    for first in {each.name: each for each in read()}.values():
        make = meter.create_observable_counter if first.counter else meter.create_observable_gauge
        make(first.name, [_observer(first.name, read)], unit=first.unit, description=first.doc)
    return provider.shutdown


def _observer(name: str, read: Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(each.value, dict(each.labels)) for each in read() if each.name == name]

    return observe
