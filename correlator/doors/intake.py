"""What both OTLP doors share: memory let in, decoding, handing over to the spool, and the count of everything lost.

`/metrics` and the `loss` table agree because both come from the counter here: what it grew by is written as rows through
the same spool, every second and once more when the doors close.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from correlator.doors.gather import Gather
from warpline import otlp, schema
from warpline.batch import Batch
from warpline.errors import WarplineError
from warpline.otlp import Decoded, Malformed, Signal
from warpline.settings import Settings
from warpline.telemetry import Reading

log = logging.getLogger(__name__)

LOSS = schema.table("loss")

COST_PER_BYTE = 8
"""Memory that a request takes while it is decoded, per byte of its body: measured on spans, points and logs in protobuf and
JSON (7, the dearer), rounded up."""

_LOSS_EVERY_S = 1.0
_RETRY_S = 1.0
_MIN_BUDGET_BYTES = 32 << 20


class Refused(WarplineError):
    """A request that cannot be taken now; the sender should send it again after `retry_after_s`."""

    def __init__(self, sentence: str, retry_after_s: float = _RETRY_S, overload: bool = False) -> None:
        """Say why; `overload` where the sender sends too much, rather than the correlator being unable."""
        super().__init__(sentence)
        self.retry_after_s, self.overload = retry_after_s, overload


class Accepts(Protocol):
    """What the doors need of `correlator.storage.ingest.Ingest`."""

    def accept(self, batches: Sequence[Batch]) -> None:
        """Return once the batches are on disk; raise an error with `retry_after_s` where they cannot be taken now."""


class Room:
    """The memory that one request holds."""

    def __init__(self, intake: Intake) -> None:
        """Hold nothing yet."""
        self._intake, self.held = intake, 0

    def hold(self, body_bytes: int) -> None:
        """Hold what a body of `body_bytes` costs, if that is more than is held; raise Refused where it is too much."""
        more = max(body_bytes * COST_PER_BYTE - self.held, 0)
        self._intake.hold(more)
        self.held += more


class Intake:
    """Takes decompressed request bodies from the doors."""

    def __init__(self, settings: Settings, ingest: Accepts) -> None:
        """Take nothing yet; `start` begins to write losses."""
        self.settings, self._ingest = settings, ingest
        self.node = settings.node or socket.gethostname()
        self.limit_bytes = settings.correlator_max_request_mb << 20
        self.losses: Counter[str] = Counter()
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.records: Counter[str] = Counter()
        self.closing = False
        self._budget = max(settings.correlator_memory_limit_mb << 18, _MIN_BUDGET_BYTES)
        self._held = self._open = 0
        self._written: Counter[str] = Counter()
        self._sequence = 0
        self._name = f"{self.node}/door/{time.time_ns()}"
        self._lock = threading.Condition()
        self._gather = Gather(self._decoded, self._keep, settings.correlator_keep_content)
        self._stop = threading.Event()
        self._writer = threading.Thread(target=self._write_losses, name="door-losses", daemon=True)

    def start(self) -> None:
        """Begin to write the losses that are counted."""
        self._writer.start()

    def close(self, seconds: float) -> bool:
        """Refuse what comes from now on, wait for what is being taken; return whether all of it was."""
        self.closing = True
        with self._lock:
            finished = self._lock.wait_for(lambda: not self._open, seconds)
        self._stop.set()
        if self._writer.is_alive():
            self._writer.join(seconds)
        return finished

    @contextmanager
    def room(self, body_bytes: int) -> Iterator[Room]:
        """Hold memory for a request while it is taken; raise Refused where the doors hold all that they may."""
        room = Room(self)
        with self._lock:
            if self.closing:
                raise Refused("the correlator is stopping; send it again")
            self._open += 1
        try:
            room.hold(body_bytes)
            yield room
        finally:
            with self._lock:
                self._held, self._open = self._held - room.held, self._open - 1
                self._lock.notify_all()

    def hold(self, more: int) -> None:
        """Hold `more` bytes; a request that is alone is always let in."""
        with self._lock:
            if self._open > 1 and self._held + more > self._budget:
                raise Refused(f"{self._open} requests fill the doors' memory; send it again", overload=True)
            self._held += more

    def take(self, signal: Signal, body: bytes, content_type: str) -> Decoded:
        """Decode a request and return once what it holds is on disk.

        Raises Malformed where it is not OTLP, and Refused where it should be sent again.
        """
        if self._gather.wants(signal, body, content_type):
            return self._gather.take(body)
        decoded = self._decoded(signal, body, content_type)
        self._keep([decoded])
        return decoded

    def _decoded(self, signal: Signal, body: bytes, content_type: str) -> Decoded:
        try:
            return otlp.decode(signal, body, content_type, self.settings.correlator_keep_content)
        except Malformed:
            self.lost({"malformed request": 1})
            raise

    def _keep(self, found: Sequence[Decoded]) -> None:
        """Return once what was decoded is on disk, all of it or, raising Refused, none acknowledged."""
        batches = [batch for each in found for batch in each.batches]
        if batches:
            try:
                self._ingest.accept(batches)
            except (WarplineError, OSError) as error:
                raise Refused(str(error), getattr(error, "retry_after_s", _RETRY_S)) from error
        for each in found:
            self.lost(each.losses)
        with self._lock:
            for batch in batches:
                self.records[batch.table.name] += batch.rows.num_rows

    def lost(self, losses: dict[str, int]) -> None:
        """Count records as lost, by reason."""
        if losses:
            with self._lock:
                self.losses.update(losses)

    def answered(self, door: str, signal: str, code: object) -> None:
        """Count one answer."""
        with self._lock:
            self.requests[door, signal, str(code)] += 1

    def _write_losses(self) -> None:
        while not self._stop.wait(_LOSS_EVERY_S):
            self.write_losses()
        self.write_losses()

    def write_losses(self) -> None:
        """Write what was lost since the last call as rows of `loss`; what cannot be written stays for the next call."""
        with self._lock:
            grown = self.losses - self._written
        if not grown:
            return
        now = time.time_ns()
        rows = LOSS.batch(
            {
                "start_ns": now,
                "end_ns": now,
                "node": self.node,
                "source": "door",
                "reason": list(grown),
                "lost": list(grown.values()),
                "lower_bound": [reason == "malformed request" for reason in grown],
            },
            rows=len(grown),
        )
        try:
            self._ingest.accept([Batch(LOSS, rows, f"{self._name}/{self._sequence}")])
        except WarplineError as error:
            log.debug("losses not written yet: %s", error)
            return
        self._sequence += 1
        self._written.update(grown)

    def readings(self) -> Iterator[Reading]:
        """Yield what the doors say of themselves."""
        with self._lock:
            requests, records, losses = dict(self.requests), dict(self.records), dict(self.losses)
            held, waiting = self._held, self._open
        for (door, signal, code), count in requests.items():
            labels = {"door": door, "signal": signal, "code": code}
            yield Reading("warpline.door.requests", count, "{request}", True, labels, "requests answered, by status")
        for table, count in records.items():
            yield Reading("warpline.door.rows", count, "{row}", True, {"table": table}, "rows acknowledged, by table")
        for reason, count in losses.items():
            yield Reading("warpline.door.lost", count, "{record}", True, {"reason": reason}, "records lost, by reason")
        yield Reading("warpline.door.memory", held, "By", doc="memory held for requests being taken")
        yield Reading("warpline.door.open_requests", waiting, "{request}", doc="requests being taken")
        yield Reading("warpline.door.memory_limit", self._budget, "By", doc="memory beyond which doors say retry")
