"""gRPC streams in batches: raw messages, read ahead by a bounded number, so that a slow collector slows the sender."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.compute as pc

from warpline.batch import Batch
from warpline.errors import SourceError
from warpline.schema import Table
from warpline.source import Context

log = logging.getLogger(__name__)

_READ_AHEAD = 8192
_DELAY_S = 0.2
_BACK_OFF_S = (0.2, 1.0, 2.0, 5.0)
_STEADY_S = 2.0
_GIVE_UP_S = 60.0
_KEEP_S = 1.0
_REFUSED = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


def idle(table: Table) -> Batch:
    """Return a batch without rows: it says that the source runs although there is nothing to tell."""
    return Batch(table, pa.RecordBatch.from_pylist([], schema=table.arrow))


def batches(call: Any, context: Context) -> Iterator[list[bytes]]:
    """Yield the messages of a stream in lists, empty ones while it is silent; end with it, or when asked to stop.

    Raises grpc.RpcError where the stream ended with one.
    """
    ahead: queue.Queue[bytes | None] = queue.Queue(_READ_AHEAD)
    failure: list[grpc.RpcError] = []
    reader = threading.Thread(target=_read, args=(call, ahead, failure), name="grpc-reader", daemon=True)
    reader.start()
    try:
        ended = False
        while not ended and not context.stop.is_set():
            batch, ended = _take(ahead)
            yield batch
    finally:
        call.cancel()
        while reader.is_alive():  # It may wait for room: make some.
            _take(ahead)
            reader.join(0.01)
    if failure and not context.stop.is_set():
        raise failure[0]


def _read(call: Any, ahead: queue.Queue[bytes | None], failure: list[grpc.RpcError]) -> None:
    try:
        for message in call:
            ahead.put(message)
    except grpc.RpcError as error:
        failure.append(error)
    finally:
        ahead.put(None)


def _take(ahead: queue.Queue[bytes | None]) -> tuple[list[bytes], bool]:
    batch: list[bytes] = []
    until = time.monotonic() + _DELAY_S
    while len(batch) < _READ_AHEAD:
        try:
            message = ahead.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if message is None:
            return batch, True
        batch.append(message)
    return batch, False


def persist(connect: Callable[[], Iterator[list[bytes]]], what: str, context: Context) -> Iterator[list[bytes]]:
    """Yield what `connect()` streams, connecting again with back-off when it ends, until stopped.

    A disconnection is said once and counted as a loss of unknown size, which a source that resumes may make good. Raises
    SourceError where the peer refuses, or cannot be reached for a minute: then the collector's own back-off takes over.
    """
    failures, failing_since = 0, 0.0
    while not context.stop.is_set():
        reason, connected = "stream ended", time.monotonic()
        try:
            for batch in connect():
                if failures and (batch or time.monotonic() - connected > _STEADY_S):
                    log.info("source %s: %s answers again", context.name, what)
                    failures = 0
                yield batch
        except grpc.RpcError as error:
            reason = error.code().name
            if error.code() in _REFUSED:
                raise SourceError(f"{what}: answered {reason}; check its version and the credentials") from None
        if context.stop.is_set():
            return
        if not failures:
            failing_since = time.monotonic()
            log.warning("source %s: %s: %s; connecting again", context.name, what, reason)
            context.lost("disconnected", 1, lower_bound=True)
        failures += 1
        if time.monotonic() - failing_since > _GIVE_UP_S:
            raise SourceError(f"{what}: {reason} for {_GIVE_UP_S:.0f} s; see whether it runs")
        context.wait(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1])


class Resume:
    """Where a stream of events stood, so that a new one neither leaves a gap nor tells anything twice.

    An event is known by a key. A new stream asks for what happened since `overlap_ns` before the newest event, and
    the keys of that time say what was told already. Kept in `state_dir`, where each line adds to those before it: a
    block's keys before it is handed on, under the block's name, and behind it that it was. Of a block that a killed
    run may or may not have handed on, the events are `unsure`: gathered again, they make a block of the same name,
    and so are stored once.
    """

    def __init__(self, context: Context, overlap_ns: int = 5_000_000_000) -> None:
        """Take up what the last run of this source left, however it ended."""
        self._file = Path(context.settings.state_dir) / f"resume-{context.name}.jsonl"
        self._overlap_ns = overlap_ns
        self._told, self.unsure = _lines_of(self._file)
        self.gathered: dict[str, dict[str, bytes]] = defaultdict(dict)
        """What came again of the events that are unsure, as lines, by block and key."""
        self._unwritten: dict[str, int] = {}
        self._room = 0
        self._recognised = True
        self.newest_ns = max(self._told.values(), default=0)

    def since_ns(self) -> int:
        """Return the time that a new stream should begin at, 0 where nothing was told yet, and expect to know some."""
        self._recognised = not self._told
        unsure = [time_ns for keys in self.unsure.values() for time_ns in keys.values()]
        known = [self.newest_ns] if self.newest_ns else []
        return max(0, min([*known, *unsure], default=0) - self._overlap_ns)

    def overtaken(self, name: str, time_ns: int) -> bool:
        """Say whether a stream that has come to `time_ns` will tell no more of what is unsure of a block."""
        return time_ns > max(self.unsure[name].values(), default=0) + self._overlap_ns

    def fresh(self, keys: list[str], times_ns: list[int]) -> tuple[list[bool], bool]:
        """Return which events are new, and whether some may be missing before them (none of the old ones was seen)."""
        new = []
        gap = False
        for key, time_ns in zip(keys, times_ns, strict=True):
            known = key in self._told
            new.append(not known)
            if not self._recognised:
                gap |= not known and time_ns > self.newest_ns
                self._recognised = known or time_ns > self.newest_ns
            self._told[key] = self._unwritten[key] = time_ns
        if times_ns:
            self.newest_ns = max(self.newest_ns, *times_ns)
            self._forget()
        return new, gap

    def _forget(self) -> None:
        horizon = self.newest_ns - 2 * self._overlap_ns
        if len(self._told) > 4096:
            self._told = {key: time_ns for key, time_ns in self._told.items() if time_ns >= horizon}

    def begin(self, name: str) -> None:
        """Write down what `fresh` was asked about since the last time: call it before those events are handed on."""
        if not self._unwritten:
            return
        if self._room < len(self._unwritten):  # Also a run's first: the last one may have left half a line.
            before = {key: time_ns for key, time_ns in self._told.items() if key not in self._unwritten}
            lines = [{"told": before}, *({"name": each, "keys": keys} for each, keys in self.unsure.items())]
            _replace(self._file, "".join(json.dumps(each) + "\n" for each in lines))
            self._room = len(before) + 8192
        self._add({"name": name, "keys": self._unwritten})
        self._room -= len(self._unwritten)
        self._unwritten = {}

    def keep(self, name: str) -> None:
        """Write down that the events of a block were handed on."""
        if self._file.exists():
            self._add({"done": name})
        again = self.unsure.pop(name, {})
        self._told |= again
        self.newest_ns = max(self.newest_ns, *again.values(), 0)

    def _add(self, line: dict[str, Any]) -> None:
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


def _lines_of(file: Path) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Return when the events that were told happened, by key, and the same of those that are unsure, by their block."""
    told: dict[str, int] = {}
    unsure: dict[str, dict[str, int]] = {}
    try:
        for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            if "name" in line:
                unsure[line["name"]] = dict(line["keys"])
            told |= line.get("told") or unsure.pop(line.get("done", ""), {})
    except (OSError, ValueError, TypeError, AttributeError, KeyError):  # Not there, or its last line is half written.
        pass
    return told, unsure


def _replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


class Heard:
    """Up to when a stream was heard that cannot be resumed: what passed while the collector was away is counted as lost."""

    def __init__(self, context: Context) -> None:
        """Count what happened since the last run of this source as a loss of unknown size, if there was one."""
        self._file = Path(context.settings.state_dir) / f"heard-{context.name}.json"
        self._written, self._until_ns, self._written_ns = 0.0, 0, 0
        try:
            self._until_ns = int(json.loads(self._file.read_text(encoding="utf-8"))["until_ns"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        now_ns = context.clock.now_ns()
        context.lost("collector was away", 1, min(self._until_ns, now_ns), now_ns, lower_bound=True)

    def keep(self, batch: Batch, column: str = "time_ns") -> None:
        """Write down the newest time (node time) of what was handed on, at most once a second; `batch` may be empty."""
        if batch.rows.num_rows:
            self._until_ns = max(self._until_ns, pc.max(batch.rows.column(column)).as_py() or 0)
        if self._until_ns > self._written_ns and time.monotonic() - self._written >= _KEEP_S:
            self._written, self._written_ns = time.monotonic(), self._until_ns
            _replace(self._file, json.dumps({"until_ns": self._until_ns}))
