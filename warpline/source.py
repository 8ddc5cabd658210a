"""What a source is, which there are, and how one is run.

A source is one module in `collectors/`. Its docstring says what it sees, by which hook, since which Linux kernel or
version, at which cost and with which privilege; it has

- `TABLES`, the tables that it fills,
- `SCOPE`, "node" (one on every node), "cluster" (one for all), "any" (wherever its settings name a peer) or "recording"
  (reads files, for `warpline import`),
- `check(settings) -> str | None`: why it cannot run here and what to do about it, as one sentence,
- where its limits or its costs depend on the node, `limits(settings) -> str`: what they are here, as one clause,
- `run(context) -> Iterator[Batch]`: yields batches until `context.stop` is set. A recording source has
  `recognises(path) -> bool` and `read(path, context) -> Iterator[Batch]` instead.

Nothing else registers it. `Runner` isolates it in a thread, times it, restarts it with back-off and counts what it loses.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import collectors
from warpline import schema
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.errors import SourceError
from warpline.schema import Table
from warpline.settings import Settings

log = logging.getLogger(__name__)

LOSS = schema.table("loss")
SOURCE_STATE = schema.table("source_state")
_STATE_EVERY_S = 60.0
_BACK_OFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)


Emit = Callable[[Batch], None]


@dataclass
class Context:
    """What a source is given: settings, clock, the sign to stop, and where to say what it lost."""

    name: str
    node: str
    settings: Settings
    clock: NodeClock
    emit: Emit
    stop: threading.Event = field(default_factory=threading.Event)
    detail: Callable[[], int] = lambda: 2
    """Detail level in force now: 0 off, 1 least, 2 ordinary, 3 all."""
    recording: Callable[[], bool] = lambda: False
    """Whether the flight recorder wants, as `fine` batches, what the ordinary detail leaves out."""
    windows: Callable[[], Sequence[tuple[int, int]]] = tuple
    """Windows of node time (start, end in ns) in which somebody wants every single event."""
    progress: Callable[[float], None] = lambda share: None
    """Told the share (0-1) of a recording that is read."""
    kernel_cost_ns: Callable[[], int] = lambda: 0
    """CPU time so far of the source's BPF programs; a source that can tell sets it."""
    cost_ratio: float = 0.0
    """Share of one core that the source cost over the last interval, as the governor measured it."""
    lost_total: int = 0
    _named_ns: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    """What the source measured of itself or of this machine, by a name that ends in its unit: shown on /metrics."""

    def lost(
        self,
        reason: str,
        count: int,
        start_ns: int | None = None,
        end_ns: int | None = None,
        lower_bound: bool = False,
        process_uid: str | None = None,
        name: str = "",
    ) -> None:
        """Count `count` records as lost for `reason` (few words that do not vary), between two node times.

        `name` is that of the rows in which they lack: told again under it, they are counted once.
        """
        if count <= 0:
            return
        self.lost_total += count
        now = self.clock.now_ns()
        row = {
            "start_ns": start_ns if start_ns is not None else now,
            "end_ns": end_ns if end_ns is not None else now,
            "node": self.node,
            "source": self.name,
            "reason": reason,
            "lost": count,
            "lower_bound": lower_bound,
            "process_uid": process_uid,
        }
        self.emit(Batch(LOSS, LOSS.batch(row, rows=1), name and f"{name}/{reason}"))

    def new_name(self) -> str:
        """Return a batch id that no other batch has, for rows that may be told again (see `Batch`)."""
        self._named_ns = max(time.time_ns(), self._named_ns + 1)
        return f"{self.node}/{self._named_ns}/{self.name}"

    def wait(self, seconds: float) -> bool:
        """Sleep up to `seconds`; return True when the source should stop."""
        return self.stop.wait(seconds)


class Source(Protocol):
    """The names that a live source's module has."""

    TABLES: tuple[Table, ...]
    SCOPE: str

    def check(self, settings: Settings) -> str | None:
        """Return why the source cannot run here and what to do, or None when it can."""

    def run(self, context: Context) -> Iterator[Batch]:
        """Yield batches until `context.stop` is set."""


class RecordingSource(Protocol):
    """The names that a recording source's module has."""

    TABLES: tuple[Table, ...]
    SCOPE: str

    def check(self, settings: Settings) -> str | None:
        """Return why the source cannot run here and what to do, or None when it can."""

    def recognises(self, path: Path) -> bool:
        """Say, by the file's first bytes, whether it is of this source's format."""

    def read(self, path: Path, context: Context) -> Iterator[Batch]:
        """Yield the recording's batches; raise SourceError, with nothing yielded after it, where it cannot be read."""


def names() -> list[str]:
    """Return the name of every source, sorted: the top-level modules of `collectors/`."""
    found = pkgutil.iter_modules(collectors.__path__)
    return sorted(m.name for m in found if not m.ispkg and not m.name.startswith("_"))


def load(name: str) -> Source:
    """Return the live or recording source called `name`; raise SourceError if there is none."""
    if name not in names():
        raise SourceError(f"source {name!r}: not found; sources are {', '.join(names())}")
    return cast(Source, importlib.import_module(f"collectors.{name}"))


def load_recording(name: str) -> RecordingSource:
    """Return the recording source called `name`; raise SourceError if there is none of that scope."""
    found = load(name)
    if found.SCOPE != "recording":
        raise SourceError(f"source {name!r}: reads no files; it is of scope {found.SCOPE}")
    return cast(RecordingSource, found)


def chosen(settings: Settings) -> list[str]:
    """Return the names of the live sources that the settings ask for, of the collector's scope."""
    asked = [each.strip() for each in settings.collector_sources.split(",") if each.strip()]
    return [each for each in (asked or names()) if load(each).SCOPE in (settings.collector_scope, "any")]


@dataclass
class State:
    """How a source fares."""

    up: bool = False
    reason: str = "not started"
    rows: int = 0
    restarts: int = 0


class Runner:
    """Runs one source in a thread of its own until stopped; a failure costs only that source, and only for a while."""

    def __init__(self, source: Source, context: Context) -> None:
        """Make a runner; `start` starts it."""
        self.source, self.context, self.state = source, context, State()
        self._thread = threading.Thread(target=self._loop, name=f"source-{context.name}", daemon=True)

    def start(self) -> None:
        """Start the source."""
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the source to end after `context.stop` was set; return whether it did."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def cpu_ns(self) -> int:
        """Return the CPU time of the source so far: its thread, and its BPF programs where it can tell."""
        if self._thread.ident is None or not self._thread.is_alive():
            return 0
        clock_id = time.pthread_getcpuclockid(self._thread.ident)
        return time.clock_gettime_ns(clock_id) + self.context.kernel_cost_ns()

    def _loop(self) -> None:
        failures = 0
        while not self.context.stop.is_set():
            reason = self._check()
            began = time.monotonic()
            if reason is None:
                reason = self._run()
            if self.context.stop.is_set():
                break
            failures = 0 if time.monotonic() - began > 2 * _BACK_OFF_S[-1] else failures + 1
            self._say(False, reason)
            self.state.restarts += 1
            self.context.wait(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1])
        self._say(False, "stopped")

    def _check(self) -> str | None:
        try:
            return self.source.check(self.context.settings)
        except Exception as error:  # A bug in one source must not stop the others.
            log.exception("source %s: check failed", self.context.name)
            return f"check failed: {error!r}"

    def _run(self) -> str:
        try:
            said = time.monotonic()
            for batch in self.source.run(self.context):
                self.state.rows += batch.rows.num_rows
                if batch.rows.num_rows:
                    self.context.emit(batch)
                if not self.state.up or time.monotonic() - said > _STATE_EVERY_S:
                    said = time.monotonic()
                    self._say(True, "")
        except SourceError as error:
            return str(error)
        except Exception as error:  # As above; the reason is in the log and in source_state.
            log.exception("source %s: failed", self.context.name)
            return f"failed: {error!r}"
        return "ended by itself"

    def _say(self, up: bool, reason: str) -> None:
        if (up, reason) != (self.state.up, self.state.reason):
            log.info("source %s: %s", self.context.name, "running" if up else reason)
        self.state.up, self.state.reason = up, reason
        row = {
            "time_ns": self.context.clock.now_ns(),
            "node": self.context.node,
            "source": self.context.name,
            "up": up,
            "reason": reason or None,
            "detail": self.context.detail(),
            "rows": self.state.rows,
            "cost_ratio": self.context.cost_ratio,
            "budget_ratio": self.context.settings.collector_budget_ratio,
        }
        self.context.emit(Batch(SOURCE_STATE, SOURCE_STATE.batch(row, rows=1)))
