"""Readings of GPUs on their way to somebody else's OTLP endpoint: fresh or not at all, since nobody alerts on old ones."""

from __future__ import annotations

import gzip
import logging
import queue
import threading

import urllib3

from warpline import schema
from warpline.batch import Batch
from warpline.deltas import Deltas
from warpline.otlp import gpu_metrics
from warpline.sender import PROTOBUF

log = logging.getLogger(__name__)

GPU_SAMPLE = schema.table("gpu_sample")
_WAITING = 16
_CLOSE_S = 5.0


class GpuMetrics:
    """Sends batches of `gpu_sample` to `<endpoint>/v1/metrics` in a thread of its own; what it cannot send is `lost`."""

    def __init__(self, endpoint: str, delta: bool = False) -> None:
        """Begin; counters leave as `delta` or as sums. What they added while nobody answered, deltas tell later."""
        self.url = f"{endpoint.rstrip('/')}/v1/metrics"
        self.lost = 0
        self._deltas = Deltas() if delta else None
        self._failing = False
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=5), retries=False)
        self._waiting: queue.Queue[Batch | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._loop, name="gpu-metrics", daemon=True)
        self._thread.start()

    def take(self, batch: Batch) -> None:
        """Take a batch of whichever table; returns at once."""
        if batch.table is not GPU_SAMPLE or not batch.rows.num_rows:
            return
        try:
            self._waiting.put_nowait(batch)
        except queue.Full:
            self.lost += batch.rows.num_rows

    def close(self) -> None:
        """Send what waits, for a few seconds, and stop."""
        try:
            self._waiting.put(None, timeout=_CLOSE_S)
            self._thread.join(_CLOSE_S)
        except queue.Full:
            pass

    def _loop(self) -> None:
        while (batch := self._waiting.get()) is not None:
            reason = self._send(gpu_metrics.encode(batch, self._deltas))
            if self._deltas is not None:
                self._deltas.settle(not reason)
            if reason:
                self.lost += batch.rows.num_rows
            if bool(reason) != self._failing:
                self._failing = bool(reason)
                log.warning("gpu metrics: %s: %s", self.url, reason or "answers again")

    def _send(self, body: bytes) -> str:
        """Return why a request was not taken, empty where it was."""
        headers = {"content-type": PROTOBUF, "content-encoding": "gzip"}
        try:
            answer = self._pool.request("POST", self.url, body=gzip.compress(body, 1), headers=headers)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return f"no answer: {type(error).__name__}"
        return "" if answer.status == 200 else f"status {answer.status}"
