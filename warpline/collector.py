"""The node process: runs the sources that can run here and sends what they yield.

Sources emit into the exporter, which owns the queue on disk; a source that fails costs only itself.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

from warpline import source, telemetry
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.export import Exporter
from warpline.governor import Governor
from warpline.gpu_metrics import GpuMetrics
from warpline.recorder import Recorder
from warpline.settings import Settings
from warpline.source import Context, Runner
from warpline.telemetry import Reading

log = logging.getLogger(__name__)

_STOP_S = 5.0


class Collector:
    """All sources of one node, and the way out."""

    def __init__(self, settings: Settings) -> None:
        """Make a runner for each source that the settings choose; `start` starts them."""
        self.settings = settings
        self.node = settings.node or socket.gethostname()
        self.clock = NodeClock(Path(settings.state_dir))
        self.governor = Governor(settings, self.node)
        self.exporter = Exporter(settings, self.node, self._recorder(), lambda: self.governor.wanted.windows)
        endpoint = settings.collector_gpu_metrics_endpoint
        self.gpu_metrics = GpuMetrics(endpoint, settings.collector_metrics_delta) if endpoint else None
        self.runners = [self._runner(name) for name in source.chosen(settings)]
        self._stops: list[telemetry.Stop] = []

    def _recorder(self) -> Recorder | None:
        size = self.settings.collector_recorder_mb << 20
        return Recorder(Path(self.settings.state_dir) / "recorder", size, self.clock.now_ns()) if size else None

    def _runner(self, name: str) -> Runner:
        context = Context(name, self.node, self.settings, self.clock, self._emit)
        runner = Runner(source.load(name), context)
        self.governor.govern(runner)
        return runner

    def _emit(self, batch: Batch) -> None:
        self.exporter.emit(batch)
        if self.gpu_metrics is not None:
            self.gpu_metrics.take(batch)

    def start(self) -> None:
        """Start every source, /metrics and the OTLP metrics of the collector itself."""
        for runner in self.runners:
            runner.start()
        self.governor.start()
        if self.settings.collector_metrics_address:
            self._stops.append(telemetry.serve_metrics(self.settings.collector_metrics_address, self.readings))
        chosen, endpoint = self.settings, self.settings.collector_endpoint
        shown = telemetry.Credentials(
            chosen.collector_token_file,
            chosen.collector_tls_ca,
            chosen.collector_tls_certificate,
            chosen.collector_tls_key,
        )
        self._stops.append(
            telemetry.send_metrics(
                endpoint, "warpline-collector", self.node, self.readings, shown, delta=chosen.collector_metrics_delta
            )
        )

    def stop(self) -> None:
        """Stop the sources, then send what they left; what cannot be sent stays in the queue on disk."""
        self.governor.stop()
        for runner in self.runners:
            runner.context.stop.set()
        for runner in self.runners:
            if not runner.join(_STOP_S):
                log.warning("source %s: did not stop within %.0f s", runner.context.name, _STOP_S)
        for stop in self._stops:
            stop()
        if self.gpu_metrics is not None:
            self.gpu_metrics.close()
        self.exporter.close(_STOP_S)

    def readings(self) -> Iterator[Reading]:
        """Yield what the collector says of itself."""
        for runner in self.runners:
            labels = {"source": runner.context.name}
            state = runner.state
            yield Reading("warpline.source.up", float(state.up), labels=labels, doc="1 while the source runs")
            yield Reading("warpline.source.rows", state.rows, "{row}", True, labels, "rows that the source yielded")
            yield Reading(
                "warpline.source.restarts", state.restarts, "{restart}", True, labels, "times it was restarted"
            )
            detail, cost = runner.context.detail(), runner.context.cost_ratio
            yield Reading("warpline.source.detail", detail, labels=labels, doc="detail level in force, 0 to 3")
            yield Reading("warpline.source.cost", cost, labels=labels, doc="share of one core, BPF programs included")
            yield Reading("warpline.source.lost", runner.context.lost_total, "{record}", True, labels, "records lost")
            for figure, value in list(runner.context.figures.items()):
                also = {**labels, "figure": figure}
                yield Reading(
                    "warpline.source.figure", value, labels=also, doc="what the source measured, in the unit named"
                )
        yield from self.exporter.readings()
        if self.gpu_metrics is not None:
            lost = self.gpu_metrics.lost
            yield Reading(
                "warpline.gpu_metrics.lost", lost, "{row}", True, doc="GPU readings that nobody took as metrics"
            )
