"""From the doors to the store: acknowledged when on disk in the spool, queryable a moment later, released when safe.

One thread moves what the spool holds into the store. A batch leaves the spool only after DuckDB's CHECKPOINT, because
DuckDB opens a damaged write-ahead log without a word and drops its tail: then the spool still has those batches, and the
day's ledger knows which of them it has.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from correlator.storage.store import DiskFull, Store
from warpline import schema
from warpline.batch import Batch
from warpline.errors import StoreError
from warpline.settings import Settings
from warpline.spool import Full, Position, Spool
from warpline.telemetry import Reading

log = logging.getLogger(__name__)

LOSS = schema.table("loss")

_MOST_ROWS = 1_000_000
"""Rows of one write to the store: more costs memory and gains nothing."""
_CHECKPOINT_S = 5.0
_CHECKPOINT_ROWS = 4_000_000
_LOSSES_S = 1.0
_RETRY_S = 1.0

Stored = Callable[[Sequence[Batch]], None]


class Busy(StoreError):
    """The correlator cannot take more now; the sender should send again after `retry_after_s`."""

    def __init__(self, sentence: str, retry_after_s: float) -> None:
        """Say why, and when to come again."""
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class Ingest:
    """The way from accepted batches to stored rows. `accept` may be called from many threads."""

    def __init__(self, settings: Settings, store: Store) -> None:
        """Open the spool; `start` begins to move what it holds."""
        self.settings, self.store = settings, store
        self.node = settings.node or socket.gethostname()
        self.spool = Spool(
            Path(settings.state_dir) / "spool",
            settings.correlator_spool_mb << 20,
            settings.correlator_disk_reserve_mb << 20,
            settings.correlator_memory_limit_mb << 18,
        )
        self.listeners: list[Stored] = []
        """Called by the storing thread with the batches of each write, once they are queryable: the joins."""
        self.state = "starting"
        self.accepted: Counter[str] = Counter()
        self.checkpoint_now = threading.Event()
        """Set to have the next checkpoint at once rather than in some seconds."""
        self._position: Position | None = None
        self._since_checkpoint = 0
        self._checkpoint_at = time.monotonic()
        self._losses_at = 0.0
        self._written: Counter[tuple[str, str]] = Counter()
        self._sequence = 0
        self._name = f"{self.node}/correlator/{time.time_ns()}"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="storer", daemon=True)

    def accept(self, batches: Sequence[Batch]) -> None:
        """Return once the batches are on disk; raise Busy where that cannot be now, StoreError where the disk fails."""
        if self._closing.is_set():
            raise Busy("the correlator is stopping; send it again", _RETRY_S)
        try:
            self.spool.append(batches)
        except Full as error:
            raise Busy(str(error), 5 * _RETRY_S) from None
        for batch in batches:
            self.accepted[batch.table.name] += batch.rows.num_rows

    def start(self) -> None:
        """Begin to store."""
        self._thread.start()

    def close(self, seconds: float = 10.0) -> bool:
        """Accept nothing more, store what was accepted, release it; return whether all was stored within `seconds`.

        What was not stays in the spool for the next start.
        """
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        done = not self._thread.is_alive()
        if done:
            self.spool.close()
        return done

    # Storing

    def _loop(self) -> None:
        while True:
            closing = self._closing.is_set()
            moved = self._move()
            if self.state == "ok":
                self._write_losses()
                self._checkpoint(closing)
            if closing and moved is None:
                return
            if self.state != "ok":
                self._closing.wait(_RETRY_S)
            elif (moved or 0) < _MOST_ROWS:  # Rows are cheap by the ten thousand: let them gather.
                self.spool.wait(self._position, 0.1)
                self._closing.wait(self.settings.correlator_store_delay_s / 2)

    def is_done(self) -> bool:
        """Say whether all that was accepted is stored."""
        return not self.spool.wait(self._position, 0)

    def _move(self) -> int | None:
        """Store what the spool holds now, up to a bound; return the rows moved, None where there was nothing."""
        batches: list[Batch] = []
        position, rows = self._position, 0
        for position, found in self.spool.read(self._position):  # noqa: B007 (the last one counts)
            batches += found
            rows += sum(batch.rows.num_rows for batch in found)
            if rows >= _MOST_ROWS:
                break
        if position == self._position:
            self._say("ok")
            return None
        while not self._store(batches):
            if self._closing.wait(_RETRY_S):
                return None
        self._position = position
        self._since_checkpoint += rows
        return rows

    def _store(self, batches: list[Batch]) -> bool:
        try:
            self.store.write(batches)
        except DiskFull as error:
            self._say(str(error))
            return False
        except StoreError as error:
            self._say(str(error))
            return self._one_by_one(batches)
        self._say("ok")
        for each in self.listeners:
            each(batches)
        return True

    def _one_by_one(self, batches: list[Batch]) -> bool:
        """Store each batch by itself, so that one that cannot be now holds back nothing but itself."""
        for batch in list(batches):
            try:
                self.store.write([batch])
                batches.remove(batch)
            except StoreError as error:
                log.debug("batch %s: %s", batch.batch_id, error)
        return not batches

    def _checkpoint(self, now: bool) -> None:
        due = time.monotonic() - self._checkpoint_at >= _CHECKPOINT_S or self._since_checkpoint >= _CHECKPOINT_ROWS
        if (
            not (now or due or self.checkpoint_now.is_set())
            or self._position is None
            or self._position == self.spool.released
        ):
            return
        try:
            self.store.checkpoint()
            self.spool.release(self._position)
        except StoreError as error:
            self._say(str(error))
        self.checkpoint_now.clear()
        self._since_checkpoint, self._checkpoint_at = 0, time.monotonic()

    def _say(self, state: str) -> None:
        if state != self.state:
            log.log(logging.INFO if state == "ok" else logging.WARNING, "storing: %s", state)
        self.state = state

    # Losses and readings

    def losses(self) -> Counter[tuple[str, str]]:
        """Return what spool and store lost so far, by part and reason."""
        spool = {("spool", reason): count for reason, count in self.spool.losses.items()}
        return Counter(spool | {("store", reason): count for reason, count in self.store.losses.items()})

    def _write_losses(self) -> None:
        """Write what was lost since the last time as rows of `loss`, so that they agree with /metrics."""
        if time.monotonic() - self._losses_at < _LOSSES_S:
            return
        self._losses_at = time.monotonic()
        grown = self.losses() - self._written
        if not grown:
            return
        now = time.time_ns()
        row = {
            "start_ns": now,
            "end_ns": now,
            "node": self.node,
            "source": [part for part, _ in grown],
            "reason": [reason for _, reason in grown],
            "lost": list(grown.values()),
            "lower_bound": True,
        }
        self._sequence += 1
        try:
            self.store.write([Batch(LOSS, LOSS.batch(row, len(grown)), f"{self._name}/{self._sequence}")])
        except StoreError as error:
            self._say(str(error))
            return
        self._written += grown

    def readings(self) -> Iterator[Reading]:
        """Yield what ingest and store say of themselves, for /metrics."""
        for table, rows in self.accepted.copy().items():
            labels = {"table": table}
            yield Reading("warpline.ingest.rows", rows, "{row}", True, labels, "rows acknowledged")
        for table, rows in self.store.rows_written.copy().items():
            labels = {"table": table}
            yield Reading("warpline.store.rows", rows, "{row}", True, labels, "rows given to the store")
        for (part, reason), count in self.losses().items():
            labels = {"source": part, "reason": reason}
            yield Reading("warpline.lost", count, "{record}", True, labels, "records lost after they were acknowledged")
        yield Reading("warpline.spool.size", self.spool.bytes, "By", doc="bytes in the spool, not released yet")
        yield Reading("warpline.store.size", self.store.bytes, "By", doc="bytes of the store on disk")
        yield Reading("warpline.store.days", len(self.store.days), "{day}", doc="days that the store holds")
        yield Reading("warpline.store.up", float(self.state == "ok"), doc="1 while batches are being stored")
