"""Runs the joins: as rows come, stretch by stretch, or all over again.

Results are functions of the rows around a fixed stretch of time. What comes marks the stretches that it can change, and
those are computed anew from all of their rows; so the result is the same whatever the order in which rows came, however
they were batched and however often. Four stages: `wire` makes the step ledger where only the engine's messages were
seen, `identity` names attempts, `clock` bounds the nodes' clocks, `gpu` shares GPU time. A stage reads what the ones
before it wrote.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins import blame, gpu_time
from correlator.joins.clock_edge import clock_edges
from correlator.joins.clock_offset import WINDOW_NS
from correlator.joins.gpu_time import STRETCH_NS, load
from correlator.joins.identity import identify
from correlator.joins.membership import from_wire
from correlator.joins.stays import from_events, from_sight
from correlator.storage.store import Store
from warpline import schema
from warpline.errors import StoreError
from warpline.settings import Settings
from warpline.telemetry import Reading

log = logging.getLogger(__name__)

_S = 1_000_000_000
Progress = Callable[[str, int, int], None]
"""Told (stage, stretches done, stretches in all)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its stretch of time, how many stretches it takes at once, and how far a row of a table reaches."""

    name: str
    stretch_ns: int
    at_once: int
    reach: dict[str, tuple[int, int]]
    """Table → (ns before, ns after): a row can change results in [time - before, time + after]."""


_EVER_NS = 1 << 62
LOOKBACK_NS = 120 * _S
"""How far before a stretch the wire is replayed from: a request that was scheduled earlier has an inexact context."""

STAGES = (
    Stage(
        "wire",
        20 * _S,
        1,
        {
            **dict.fromkeys(
                ("engine_message", "engine_emission", "engine_event", "engine_request"), (30 * _S, LOOKBACK_NS)
            ),
            # Where no engine tells its steps, they are counted on the GPU, over the whole of each request (stays.py), or
            # named in its trace, by the wall clock (batches.py).
            **dict.fromkeys(
                ("span", "engine_phase", "clock_pair", "http_exchange", "launch", "gpu_kernel"), (30 * _S, LOOKBACK_NS)
            ),
        },
    ),
    Stage(
        "identity",
        60 * _S,
        1,
        {"http_exchange": (60 * _S, 60 * _S), "engine_request": (60 * _S, 60 * _S), "connection": (0, 60 * _S)},
    ),
    Stage("clock", 60 * _S, 1, {"http_exchange": (90 * _S, 30 * _S), "connection": (0, 60 * _S)}),
    Stage(
        "gpu",
        STRETCH_NS,
        12,
        {
            "gpu_kernel": (_S // 10, _S // 10),
            "launch": (0, 5 * _S),
            "step_member": (5 * _S, 5 * _S),
            "engine_step": (5 * _S, 5 * _S),
            "engine_message": (5 * _S, 0),
            "gpu_sample": (0, STRETCH_NS),
        },
    ),
)


class Joins:
    """The joins of one store. `start` follows what comes; `rebuild` makes everything anew."""

    def __init__(self, settings: Settings, store: Store) -> None:
        """Join what `store` holds."""
        self.settings, self.store = settings, store
        self.lag_s = 0.0
        self.joined = 0
        self.failed = 0
        self._ledgers: dict[int, bytes] = {}
        self._dirty: dict[str, set[int]] = {stage.name: set() for stage in STAGES}
        self._stop = threading.Event()
        self._now = threading.Event()
        self._working = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="joins", daemon=True)

    def start(self) -> None:
        """Begin to follow, after what the last run may have left undone."""
        for stage in STAGES:
            for table in stage.reach:
                for low, high in self._filled(table, stage.stretch_ns, 120 * _S if self._has_results() else _EVER_NS):
                    self._mark(table, low, high)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the stretch under way."""
        self._stop.set()
        self._now.set()
        if self._thread.is_alive():
            self._thread.join(60)

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._now.wait(self.settings.correlator_join_delay_s)
            self._now.clear()
            try:
                self.catch_up()
            except StoreError as error:
                self.failed += 1
                log.warning("joins: %s", str(error).splitlines()[0])

    def hurry(self) -> None:
        """Have what came joined now, without the rest of the delay."""
        self._now.set()

    def is_done(self) -> bool:
        """Say whether all that is stored is joined; answers at once."""
        if not self._working.acquire(blocking=False):
            return False
        try:
            return not len(self.store.changes) and not any(self._dirty.values())
        finally:
            self._working.release()

    def catch_up(self) -> int:
        """Join what came since the last call; return how many stretches were computed. Raises StoreError."""
        with self._working:
            return self._catch_up()

    def _catch_up(self) -> int:
        began = time.monotonic()
        for table, low, high in self.store.changes.take():
            self._mark(table, low, high)
        done = 0
        for stage in STAGES:
            for since_ns, until_ns in self._runs(stage):
                if self._stop.is_set():
                    return done
                self._run(stage, since_ns, until_ns)
                first, last = since_ns // stage.stretch_ns, until_ns // stage.stretch_ns
                self._dirty[stage.name] -= set(range(first, last))
                done += last - first
        if done:
            self.joined += done
            self.lag_s = time.monotonic() - began
            self.store.compact_results()
        return done

    def rebuild(self, progress: Progress | None = None) -> None:
        """Forget all results and join everything that is stored. Raises StoreError."""
        self.store.forget_results()
        self.store.changes.take()
        for stage in STAGES:
            for table in stage.reach:
                for low, high in self._filled(table, stage.stretch_ns):
                    self._mark(table, low, high, only=stage.name)
        for stage in STAGES:
            total, done = len(self._dirty[stage.name]), 0
            for since_ns, until_ns in self._runs(stage):
                self._run(stage, since_ns, until_ns)
                done += (until_ns - since_ns) // stage.stretch_ns
                if progress:
                    progress(stage.name, done, total)
            self._dirty[stage.name].clear()
        self.store.compact_results()

    # What is to be done

    def _mark(self, table: str, low_ns: int, high_ns: int, only: str = "") -> None:
        for stage in STAGES:
            reach = stage.reach.get(table)
            if reach and only in ("", stage.name):
                first = (low_ns - reach[0]) // stage.stretch_ns
                self._dirty[stage.name].update(range(first, (high_ns + reach[1]) // stage.stretch_ns + 1))

    def _runs(self, stage: Stage) -> Iterator[tuple[int, int]]:
        """Yield (since, until) of dirty stretches, neighbours together as far as the stage takes them."""
        numbers = sorted(self._dirty[stage.name])
        at = 0
        while at < len(numbers):
            size = 1
            while at + size < len(numbers) and size < stage.at_once and numbers[at + size] == numbers[at] + size:
                size += 1
            yield numbers[at] * stage.stretch_ns, (numbers[at] + size) * stage.stretch_ns
            at += size

    def _filled(self, table: str, stretch_ns: int, last_ns: int = _EVER_NS) -> Iterator[tuple[int, int]]:
        """Yield the first and last time of `table` in each stretch that has rows, `last_ns` before its last row and later:
        weeks without a row may lie between two of them."""
        time = schema.table(table).time
        found = self.store.query(
            f"SELECT min({time}) AS low, max({time}) AS high FROM {table}"  # noqa: S608 (ours)
            f" WHERE {time} >= (SELECT max({time}) FROM {table}) - $last_ns GROUP BY {time} // $stretch_ns",
            {"last_ns": last_ns, "stretch_ns": stretch_ns},
        )
        yield from zip(found["low"].to_pylist(), found["high"].to_pylist(), strict=True)

    def _has_results(self) -> bool:
        return any(self.store.results.files.values())

    # The stages

    def _run(self, stage: Stage, since_ns: int, until_ns: int) -> None:
        made = {"wire": self._wire, "identity": self._identity, "clock": self._clock, "gpu": self._gpu}[stage.name](
            since_ns, until_ns
        )
        self.store.put(since_ns, until_ns, made)
        if stage.name == "wire":
            self._mark_changed(since_ns, until_ns, made["step_member"])

    def _mark_changed(self, since_ns: int, until_ns: int, members: pa.Table) -> None:
        """Mark what follows from the stretches of the ledger that came out otherwise than the last time."""
        for start in range(since_ns, until_ns, STRETCH_NS):
            inside = pc.and_(
                pc.greater_equal(members["time_ns"], start), pc.less(members["time_ns"], start + STRETCH_NS)
            )
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, members.schema) as out:
                out.write_table(members.filter(inside).combine_chunks().unify_dictionaries())
            digest = hashlib.blake2b(sink.getvalue(), digest_size=16).digest()
            if self._ledgers.get(start) != digest:
                self._ledgers[start] = digest
                self._mark("step_member", start, start + STRETCH_NS - 1)

    def _read(self, table: str, since_ns: int, until_ns: int, where: str = "true") -> pa.Table:
        column = schema.table(table).time
        sql = f"SELECT * FROM {table} WHERE {column} >= $since_ns AND {column} < $until_ns AND {where}"  # noqa: S608 (ours)
        return self.store.query(sql, {"since_ns": since_ns, "until_ns": until_ns})

    def _wire(self, since_ns: int, until_ns: int) -> dict[str, pa.Table]:
        engines = self.store.query(load("wire_engine"), {"since_ns": since_ns, "until_ns": until_ns}).to_pylist()
        parts = [self._replayed(e["process_uid"], e["engine_index"], since_ns, until_ns) for e in engines]
        steps: list[pa.Table] = []
        if self._without_engine(since_ns, until_ns):
            members, batches = from_sight(self.store.query, since_ns - LOOKBACK_NS, until_ns + 30 * _S)
            parts += [_between(found, since_ns, until_ns) for found in members]
            steps += [_between(found, since_ns, until_ns, "start_ns") for found in batches]
        made = {"step_member": parts, "engine_step": steps}
        return {n: pa.concat_tables([_empty(n), *rows], promote_options="permissive") for n, rows in made.items()}

    def _replayed(self, process_uid: str, index: int | None, since_ns: int, until_ns: int) -> pa.Table:
        bound = {
            "process_uid": process_uid,
            "engine_index": index,
            "since_ns": since_ns - LOOKBACK_NS,
            "until_ns": until_ns + 30 * _S,
        }
        message, emission, event, request = (
            self.store.query(
                f"SELECT * FROM {name} WHERE process_uid = $process_uid"  # noqa: S608 (ours)
                " AND engine_index IS NOT DISTINCT FROM $engine_index"
                f" AND {schema.table(name).time} >= $since_ns AND {schema.table(name).time} < $until_ns",
                bound,
            )
            for name in ("engine_message", "engine_emission", "engine_event", "engine_request")
        )
        if len(emission):
            found = from_wire(message, emission, event, request, self.settings.correlator_token_budget)
        else:
            found = from_events(message, event, request)
        return _between(found, since_ns, until_ns)

    def _without_engine(self, since_ns: int, until_ns: int) -> bool:
        """Say whether a process ran anything on a GPU in the stretch without a word of its steps."""
        found = self.store.query(load("stepless"), {"since_ns": since_ns, "until_ns": until_ns})
        return len(found) > 0

    def _identity(self, since_ns: int, until_ns: int) -> dict[str, pa.Table]:
        around = (since_ns - 60 * _S, until_ns + 60 * _S)
        connections = self._read("connection", since_ns - 3600 * _S, around[1])
        found = identify(self._read("http_exchange", *around), self._read("engine_request", *around), connections)
        made = {}
        for name, rows in (("alias", found.alias), ("edge", found.edge), ("finding", found.finding)):
            inside = pc.and_(pc.greater_equal(rows["time_ns"], since_ns), pc.less(rows["time_ns"], until_ns))
            made[name] = pa.Table.from_batches([rows.filter(inside)])
        return made

    def _clock(self, since_ns: int, until_ns: int) -> dict[str, pa.Table]:
        matched = self.store.query(load("clock"), {"since_ns": since_ns - WINDOW_NS, "until_ns": until_ns + WINDOW_NS})
        return {"clock_edge": clock_edges(matched, range(since_ns + 5 * _S, until_ns, 10 * _S))}

    def _gpu(self, since_ns: int, until_ns: int) -> dict[str, pa.Table]:
        found = gpu_time.find(self.store.query, since_ns, until_ns)
        waits = self.store.query(load("wait"), {"since_ns": since_ns, "until_ns": until_ns})
        return {"share": gpu_time.rows(found), "blame": blame.rows(found, waits)}

    def readings(self) -> Iterable[Reading]:
        """Yield what the joins did, for /metrics."""
        yield Reading("warpline.joins.stretches", self.joined, "{stretch}", True, doc="stretches of time joined")
        yield Reading("warpline.joins.failures", self.failed, "{failure}", True, doc="runs that the store refused")
        yield Reading("warpline.joins.duration", self.lag_s, "s", False, doc="time that the last run took")


def _empty(name: str) -> pa.Table:
    return pa.Table.from_batches([], schema.table(name).arrow)


def _between(rows: pa.RecordBatch, since_ns: int, until_ns: int, time: str = "time_ns") -> pa.Table:
    inside = pc.and_(pc.greater_equal(rows[time], since_ns), pc.less(rows[time], until_ns))
    return pa.Table.from_batches([rows.filter(inside)])
