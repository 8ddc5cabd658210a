"""Runs the joins: as rows come, stretch by stretch, or all over again.

Results are functions of the rows around a fixed stretch of time. What comes marks the stretches that it can change, and
those are computed anew from all of their rows; so the result is the same whatever the order in which rows came, however
they were batched and however often. Five stages: `wire` makes the step ledger where only the engine's messages were
seen, `identity` names attempts, `clock` bounds the nodes' clocks, `gpu` shares GPU time, `blame` says who delayed whom. A
stage reads what the ones before it wrote.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins import blame, executions, gpu_time
from correlator.joins.clock_edge import clock_edges
from correlator.joins.clock_offset import WINDOW_NS
from correlator.joins.executions import STRETCH_NS, load
from correlator.joins.identity import identify
from correlator.joins.late import Late
from correlator.joins.made_of import KEPT, MadeOf
from correlator.joins.marks import near, together
from correlator.joins.membership import from_wire
from correlator.joins.presence import BUCKET_NS, Presence
from correlator.joins.reach import BY_NAME, LOOKBACK_NS, STAGES, Stage
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


_EVER_NS = 1 << 62
_PIECES = 8
"""So many stretches at most are put as files of their own; more at once are rows of long ago, or all."""


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
        self._presence, self._made_of, self._late = Presence(store.query), MadeOf(store.query), Late(store.query)
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
        for table, low, high in together(self.store.changes.take()):
            new = self._presence.came(table, low, high)
            if table == "step_member":  # Its plugin tells now what was made of less.
                for bucket in new:
                    at = bucket * BUCKET_NS
                    self._mark("engine_message", at - 30 * _S, at + BUCKET_NS + 60 * _S, only="wire")
            self._came(table, low, high)
        done = 0
        for stage in STAGES:
            self._drop_empty(stage)
            for since_ns, until_ns in self._runs(stage):
                if self._stop.is_set():
                    return done
                few = until_ns - since_ns <= _PIECES * stage.stretch_ns
                self._run(stage, since_ns, until_ns, stage.stretch_ns if few else 0)
                first, last = since_ns // stage.stretch_ns, until_ns // stage.stretch_ns
                self._dirty[stage.name] -= set(range(first, last))
                done += last - first
        if done:
            self.joined += done
            self.lag_s = time.monotonic() - began
            self.store.compact_results()
            self._presence.forget_old()
        return done

    def rebuild(self, progress: Progress | None = None) -> None:
        """Forget all results and join everything that is stored. Raises StoreError."""
        self.store.forget_results()
        self.store.changes.take()
        self._ledgers.clear()
        self._made_of.forget()
        self._presence = Presence(self.store.query)
        for stage in STAGES:
            for table in stage.reach:
                for low, high in self._filled(table, stage.stretch_ns):
                    self._mark(table, low, high, only=stage.name)
        for stage in STAGES:
            self._drop_empty(stage)
            total, done = len(self._dirty[stage.name]), 0
            for since_ns, until_ns in self._runs(stage):
                self._run(stage, since_ns, until_ns)
                done += (until_ns - since_ns) // stage.stretch_ns
                if progress:
                    progress(stage.name, done, total)
            self._dirty[stage.name].clear()
        while self.store.compact_results():
            pass
        self._presence.forget_old()

    # What is to be done

    def _mark(self, table: str, low_ns: int, high_ns: int, only: str = "") -> None:
        for stage in STAGES:
            reach = stage.reach.get(table)
            if reach and only in ("", stage.name):
                first = (low_ns - reach[0]) // stage.stretch_ns
                self._dirty[stage.name].update(range(first, (high_ns + reach[1]) // stage.stretch_ns + 1))

    def _came(self, table: str, low_ns: int, high_ns: int) -> None:
        """Mark the stretches that rows which came with times in [low_ns, high_ns] can change."""
        stage, dirty = BY_NAME["gpu"], self._dirty["gpu"]
        found: tuple[int, int] | None
        if table in ("step_member", "engine_step"):
            dirty.update(self._made_of.by_steps(table, low_ns, high_ns))
            return
        for other in STAGES:
            if other is not BY_NAME["gpu"]:
                self._mark(table, low_ns, high_ns, only=other.name)
        for name, low, high in self._late.came(table, low_ns, high_ns):
            self._dirty[name].update(range(low // BY_NAME[name].stretch_ns, high // BY_NAME[name].stretch_ns + 1))
        if table == "engine_event":
            self._dirty["blame"].update(self._made_of.by_waits(low_ns, high_ns))
        if table == "gpu_sample":
            found = self._made_of.by_power(low_ns, high_ns)
        elif table == "engine_message":
            found = self._made_of.by_messages(low_ns, high_ns)
        elif table == "gpu_kernel":
            found = self._made_of.by_kernels(low_ns, high_ns)
        else:
            self._mark(table, low_ns, high_ns, only=stage.name)
            return
        if found:
            dirty.update(range(found[0] // STRETCH_NS, found[1] // STRETCH_NS + 1))

    def _drop_empty(self, stage: Stage) -> None:
        """Leave out dirty stretches that have no rows of which results could be: where rows reach far, most are."""
        dirty = self._dirty[stage.name]
        if stage.of:
            dirty &= {n for low, high in near(dirty) for t in stage.of for n in self._with_rows(t, stage, low, high)}

    def _with_rows(self, table: str, stage: Stage, low: int, high: int) -> list[int]:
        """Return which of the stretches from number `low` to `high` have rows of `table`."""
        column, each = schema.table(table).time, stage.stretch_ns
        found = self.store.query(
            f"-- within: {table} 0 s\nSELECT DISTINCT {column} // $stretch_ns AS n FROM {table}"
            f" WHERE {column} >= $since_ns AND {column} < $until_ns",
            {"stretch_ns": each, "since_ns": low * each, "until_ns": (high + 1) * each},
        )
        numbers: list[int] = found["n"].to_pylist()
        return numbers

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

    def _run(self, stage: Stage, since_ns: int, until_ns: int, piece_ns: int = 0) -> None:
        run = {
            "wire": self._wire,
            "identity": self._identity,
            "clock": self._clock,
            "gpu": self._gpu,
            "blame": self._blame,
        }
        made = run[stage.name](since_ns, until_ns)
        if stage.name == "wire":
            self._mark_changed(since_ns, until_ns, made["step_member"])
        if stage.name == "gpu":
            self._dirty["blame"].update(range(since_ns // STRETCH_NS, until_ns // STRETCH_NS))
        if any(len(rows) or self.store.results.any_in(name, since_ns, until_ns) for name, rows in made.items()):
            self.store.put(since_ns, until_ns, made, piece_ns)

    def _mark_changed(self, since_ns: int, until_ns: int, members: pa.Table) -> None:
        """Mark what follows from the stretches of the ledger that came out otherwise than the last time."""
        stretch = np.asarray(members["time_ns"].to_numpy()) // STRETCH_NS
        had = self.store.results.any_in("step_member", since_ns, until_ns)
        numbers = range(since_ns // STRETCH_NS, until_ns // STRETCH_NS)
        for number in numbers if had else np.unique(stretch).tolist():
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, members.schema) as out:
                out.write_table(members.filter(pa.array(stretch == number)).combine_chunks().unify_dictionaries())
            digest = hashlib.blake2b(sink.getvalue(), digest_size=16).digest()
            if self._ledgers.pop(number, None) != digest:
                self._mark("step_member", number * STRETCH_NS, (number + 1) * STRETCH_NS - 1, only="gpu")
            self._ledgers[number] = digest
        while len(self._ledgers) > KEPT:
            self._ledgers.pop(next(iter(self._ledgers)))

    def _read(self, table: str, since_ns: int, until_ns: int, where: str = "true") -> pa.Table:
        column = schema.table(table).time
        sql = f"SELECT * FROM {table} WHERE {column} >= $since_ns AND {column} < $until_ns AND {where}"  # noqa: S608 (ours)
        return self.store.query(f"-- within: {table} 0 s\n{sql}", {"since_ns": since_ns, "until_ns": until_ns})

    def _wire(self, since_ns: int, until_ns: int) -> dict[str, pa.Table]:
        told = self._presence.processes("step_member", since_ns - 60 * _S, until_ns + 60 * _S)
        engines = {e for e in self._presence.keys("engine_message", since_ns, until_ns) if e[0] not in told}
        parts = [self._replayed(*each, since_ns, until_ns) for each in sorted(engines, key=str)]
        steps: list[pa.Table] = []
        if self._without_engine(since_ns, until_ns):
            members, batches = from_sight(self.store.query, since_ns - LOOKBACK_NS, until_ns + 30 * _S)
            parts += [_between(found, since_ns, until_ns) for found in members]
            steps += [_between(found, since_ns, until_ns, "start_ns") for found in batches]
        made = {"step_member": parts, "engine_step": steps}
        return {n: pa.concat_tables([_empty(n), *rows], promote_options="permissive") for n, rows in made.items()}

    def _replayed(self, process_uid: str | None, index: int | None, since_ns: int, until_ns: int) -> pa.Table:
        bound = {
            "process_uid": process_uid,
            "engine_index": index,
            "since_ns": since_ns - LOOKBACK_NS,
            "until_ns": until_ns + 30 * _S,
        }
        message, emission, event, request = (
            self.store.query(
                f"-- within: {name} 0 s\nSELECT * FROM {name} WHERE process_uid = $process_uid"
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
        ran = self._presence.processes("gpu_kernel", since_ns, until_ns)
        spoke = self._presence.processes("engine_message", since_ns - 30 * _S, until_ns + 30 * _S)
        return bool(ran - spoke - self._presence.processes("step_member", since_ns - 60 * _S, until_ns + 60 * _S))

    def _identity(self, since_ns: int, until_ns: int) -> dict[str, pa.Table]:
        around = (since_ns - 60 * _S, until_ns + 60 * _S)
        connections = self._read("connection", since_ns - 3600 * _S, around[1])
        exchanges, requests = (self._read(n, *around) for n in ("http_exchange", "engine_request"))
        until_then = f"coalesce(end_ns, start_ns) >= {around[0]}"  # Of a source that stood still, since it last looked.
        losses = self._read("loss", since_ns - 3600 * _S, around[1], until_then)
        found = identify(exchanges, requests, connections, losses, (since_ns, until_ns))
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
        self._made_of.note(found)
        return {"share": gpu_time.rows(found)}

    def _blame(self, since_ns: int, until_ns: int) -> dict[str, pa.Table]:
        window = {"since_ns": since_ns, "until_ns": until_ns}
        costs = self.store.query(load("cost"), {**window, "stretch_ns": STRETCH_NS})
        known = executions.engines(self.store.query, (since_ns, until_ns))
        return {"blame": blame.rows(costs, self.store.query(load("wait"), window), known)}

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
