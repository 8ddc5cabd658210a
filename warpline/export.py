"""The collector's way out: rows are gathered into batches, put on disk, and sent as OTLP until somebody has them.

A batch gets its id before it is on disk, so that what is sent twice, by a retry or by the next life of this process, is
stored once. Where the queue is full, the newest rows are lost and counted: what waits longest is what
an incident began with.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from warpline import otlp, schema
from warpline.batch import Batch
from warpline.errors import StoreError, WarplineError
from warpline.otlp.arrow import MAX_BODY_BYTES, body
from warpline.recorder import Recorder, covered
from warpline.schema import Table
from warpline.sender import Answer, Sender
from warpline.settings import Settings
from warpline.spool import Full, Spool
from warpline.telemetry import Reading

log = logging.getLogger(__name__)

LOSS = schema.table("loss")
Window = tuple[int, int]
Pending = dict[tuple[str, bool], list[Batch]]
"""Batches in memory by table and whether they are fine."""

QUEUE_FULL = "export queue full"
DISK_FAILED = "export queue's disk failed"
TOO_LARGE = "row too large to send"
OUT_OF_REACH = "window is older than the flight recorder reaches"

_PENDING_BYTES = 64 << 20
"""Rows in memory beyond which whoever emits waits: a source that outruns the disk must not grow the collector."""
_KEEP_BYTES = 8 << 20
"""Batches on disk that also stay in memory, so that sending reads no file: over a second of 5,000 requests/s. While nobody
answers, it stays full."""
_EMIT_WAIT_S = 5.0
_REQUEST_BYTES = 8 << 20
"""Rows of one request, as they lie in memory: about a fifth of it on the wire."""
_KEPT_BYTES = 16 << 20
"""Rows of kept windows that are put into the queue in one turn, and only while it is less than half full: what is seen now
has the right of way."""
_WINDOWS = 256
"""Windows that are remembered, so that one that is asked for again, after a silence, is not sent or missed twice."""
_BACK_OFF_S, _LONGEST_S, _GROWTH = 1.0, 30.0, 1.5


class Exporter:
    """Takes batches from sources and brings them to `settings.collector_endpoint`. `emit` may be called by many threads."""

    def __init__(
        self,
        settings: Settings,
        node: str,
        recorder: Recorder | None = None,
        windows: Callable[[], Sequence[Window]] = tuple,
    ) -> None:
        """Open the queue and begin to send what it holds; raises SettingsError or StoreError with what to do.

        Fine batches go to `recorder`, and on from there where one of the `windows` of node time, asked for now, covers them.
        """
        self.settings, self.node = settings, node
        self._recorder, self._windows = recorder, windows
        self._asked: list[Window] = []
        self._met: deque[Window] = deque(maxlen=_WINDOWS)
        self._keeping: deque[Iterator[Batch]] = deque()
        self._sender = Sender(settings)
        self.spool = Spool(
            Path(settings.state_dir) / "queue",
            settings.collector_queue_mb << 20,
            keep_bytes=_KEEP_BYTES,
        )
        self.sent_rows: Counter[str] = Counter()
        self.kept_rows = 0
        self.losses: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._pending: Pending = {}
        self._pending_bytes = self._pending_rows = 0
        self._changed = threading.Condition()
        self._name, self._sequence = f"{node}/{time.time_ns()}", 0
        self._closing = False
        self._stop_sending = threading.Event()
        self._packer = threading.Thread(target=self._pack_loop, name="export-pack", daemon=True)
        self._poster = threading.Thread(target=self._send_loop, name="export-send", daemon=True)
        self._packer.start()
        self._poster.start()

    def emit(self, batch: Batch) -> None:
        """Take rows of one table; returns at once, or after a wait while more is pending than memory should hold.

        Rows that their source has named are on disk when it returns, under that name: the source may then forget them.
        """
        if not batch.rows.num_rows:
            return
        if batch.batch_id:
            for number, piece in enumerate(self._pieces(batch.rows)):
                self._queue(Batch(batch.table, piece, f"{batch.batch_id}/{number}" if number else batch.batch_id))
            return
        size = batch.rows.nbytes
        with self._changed:
            if not self._changed.wait_for(lambda: self._pending_bytes < _PENDING_BYTES, _EMIT_WAIT_S):
                self.losses[QUEUE_FULL] += batch.rows.num_rows
                return
            self._pending.setdefault((batch.table.name, batch.fine), []).append(batch)
            self._pending_bytes += size
            self._pending_rows += batch.rows.num_rows
            if self._pending_rows >= self.settings.collector_batch_rows:
                self._changed.notify_all()

    def close(self, seconds: float = 5.0) -> bool:
        """Put what is pending on disk, try to send it for up to `seconds`, stop; return whether all was sent."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._packer.join(max(seconds, 1.0))
        self._poster.join(max(deadline - time.monotonic(), 0.0))
        sent = not self._poster.is_alive()
        self._stop_sending.set()
        self._poster.join(35)  # One request may be under way: its time-out bounds it.
        self.spool.close()
        if self._recorder is not None:
            self._recorder.close()
        return sent

    # Packing

    def _pack_loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._is_due, self.settings.collector_batch_delay_s)
                closing = self._closing
                pending, self._pending = self._pending, {}
                self._pending_bytes = self._pending_rows = 0
                self._changed.notify_all()
            self._look_at_windows(pending)
            self._tell_losses(pending)
            for (name, fine), batches in pending.items():
                self._put(schema.table(name), batches, fine)
            self._send_kept()
            if closing:
                return

    def _is_due(self) -> bool:
        return self._closing or self._pending_rows >= self.settings.collector_batch_rows

    def _put(self, table: Table, batches: Sequence[Batch], fine: bool) -> None:
        """Merge rows of one table, name the batches and put them on disk: fine ones aside, unless they are asked for."""
        for piece in self._pieces(_merged([batch.rows for batch in batches])):
            self._sequence += 1
            named = Batch(table, piece, f"{self._name}/{self._sequence}")
            if fine and self._recorder is not None and not covered(named, self._asked):
                self._recorder.put(named)
            else:
                self._queue(named)

    def _queue(self, batch: Batch) -> None:
        try:
            self.spool.append([batch])
        except Full as error:
            self._lose(QUEUE_FULL, batch.rows.num_rows, error)
        except StoreError as error:
            self._lose(DISK_FAILED, batch.rows.num_rows, error)

    def _look_at_windows(self, pending: Pending) -> None:
        """Take up windows that are asked for since the last look; what the ring does not reach of one is counted."""
        if self._recorder is None:
            return
        asked = list(self._windows())
        for since_ns, until_ns in [each for each in asked if each not in self._met]:
            self._met.append((since_ns, until_ns))
            self._keeping.append(self._recorder.take(since_ns, until_ns))
            if since_ns < self._recorder.reach_ns:
                ends = {"start_ns": since_ns, "end_ns": min(self._recorder.reach_ns, until_ns), "node": self.node}
                row = {**ends, "source": "recorder", "reason": OUT_OF_REACH, "lost": 1, "lower_bound": True}
                pending.setdefault((LOSS.name, False), []).append(Batch(LOSS, LOSS.batch(row, 1)))
        self._asked = asked

    def _send_kept(self) -> None:
        """Move what kept windows hold from the ring into the queue, a piece at a time."""
        moved = 0
        while self._keeping and moved < _KEPT_BYTES and self.spool.bytes < self.spool.limit_bytes // 2:
            batch = next(self._keeping[0], None)
            if batch is None:
                self._keeping.popleft()
            else:
                moved += batch.rows.nbytes
                self.kept_rows += batch.rows.num_rows
                self._queue(batch)

    def _pieces(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Yield rows in pieces that one record on the wire may hold."""
        most = self.settings.collector_batch_rows
        if rows.num_rows <= most and (rows.nbytes < MAX_BODY_BYTES // 2 or body(rows).size <= MAX_BODY_BYTES):
            yield rows
        elif rows.num_rows == 1:
            self.losses[TOO_LARGE] += 1
        else:
            half = min(rows.num_rows // 2, most)
            yield from self._pieces(rows.slice(0, half))
            yield from self._pieces(rows.slice(half))

    def _losses(self) -> Counter[str]:
        recorded = self._recorder.losses if self._recorder is not None else Counter[str]()
        return self.losses + Counter(self.spool.losses) + recorded

    def _tell_losses(self, pending: Pending) -> None:
        """Add what was lost since the last time to the rows on their way."""
        losses = self._losses()
        grown = losses - self._told
        if not grown:
            return
        now = time.time_ns()
        row = {"start_ns": now, "end_ns": now, "node": self.node, "source": "export"}
        more = {"reason": list(grown), "lost": list(grown.values()), "lower_bound": False}
        self._told = losses
        pending.setdefault((LOSS.name, False), []).append(Batch(LOSS, LOSS.batch(row | more, len(grown))))

    def _lose(self, reason: str, rows: int, error: WarplineError | None = None) -> None:
        if reason not in self.losses:
            log.warning("export: rows are lost: %s", error or reason)
        self.losses[reason] += rows

    # Sending

    def _send_loop(self) -> None:
        while not self._stop_sending.is_set():
            for position, batches in self.spool.read():
                if not self._deliver(batches):
                    return
                self.spool.release(position)
            if self._closing and not self._packer.is_alive() and not self.spool.bytes:
                return
            self.spool.wait(None, 0.1)

    def _deliver(self, batches: Sequence[Batch]) -> bool:
        """Send batches in requests of a bounded size, each until it is taken or refused; False when told to stop."""
        return all(self._deliver_request(request) for request in _requests(batches))

    def _deliver_request(self, batches: Sequence[Batch]) -> bool:
        request = otlp.encode(batches, {"service.name": "warpline-collector", "k8s.node.name": self.node})
        wait, said = _BACK_OFF_S, ""
        while True:
            answer = self._sender.send(request)
            if not answer.retry:
                if said:
                    log.info("export: %s answers again", self._sender.url)
                return self._settle(batches, answer)
            if answer.reason != said:
                said = answer.reason
                log.warning("export: %s: %s; what is seen waits on disk", self._sender.url, said)
            # The jitter keeps a cluster's collectors from coming back all at once.
            if self._stop_sending.wait(max(answer.wait_s, wait * random.uniform(0.5, 1.0))):
                return False
            wait = min(wait * _GROWTH, _LONGEST_S)

    def _settle(self, batches: Sequence[Batch], answer: Answer) -> bool:
        if answer.too_large and len(batches) > 1:
            half = len(batches) // 2
            return self._deliver_request(batches[:half]) and self._deliver_request(batches[half:])
        rows = sum(batch.rows.num_rows for batch in batches)
        if not answer.taken:
            self._lose(answer.reason, rows)
        elif answer.rejected:
            # A record is a batch: the receiver's count of records says too little.
            self._lose("rejected by the receiver", max(answer.rejected, 1))
            log.warning("export: %d batches rejected: %s", answer.rejected, answer.reason)
        else:
            for batch in batches:
                self.sent_rows[batch.table.name] += batch.rows.num_rows
        return True

    def readings(self) -> Iterator[Reading]:
        """Yield what the way out says of itself."""
        for table, rows in self.sent_rows.copy().items():
            yield Reading("warpline.export.rows", rows, "{row}", True, {"table": table}, "rows delivered")
        for reason, count in self._losses().items():
            yield Reading("warpline.export.lost", count, "{row}", True, {"reason": reason}, "rows lost on the way out")
        yield Reading("warpline.export.queue.size", self.spool.bytes, "By", doc="bytes that wait on disk")
        if self._recorder is not None:
            size, sent = self._recorder.bytes, self.kept_rows
            yield Reading("warpline.recorder.size", size, "By", doc="bytes that the flight recorder holds")
            yield Reading("warpline.recorder.rows", sent, "{row}", True, doc="rows of kept windows that were sent on")


def _merged(rows: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if len(rows) == 1:
        return rows[0]
    return pa.Table.from_batches(rows).unify_dictionaries().combine_chunks().to_batches()[0]


def _requests(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Group batches into requests."""
    group: list[Batch] = []
    size = 0
    for batch in batches:
        if group and size + batch.rows.nbytes > _REQUEST_BYTES:
            yield group
            group, size = [], 0
        group.append(batch)
        size += batch.rows.nbytes
    if group:
        yield group
