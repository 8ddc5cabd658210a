"""What keeps the store in shape while it is used: old days go, small segments are merged, finished days are sorted, and
files that nobody reads are looked at for bytes that rotted."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb

from correlator.storage import in_order, segments
from correlator.storage.day import Day
from correlator.storage.parts import NS_PER_DAY
from correlator.storage.salvage import heal
from correlator.storage.segments import Segment
from correlator.storage.store import Store
from warpline import schema
from warpline.errors import StoreError
from warpline.schema import Table
from warpline.settings import Settings
from warpline.spool import sync_directory
from warpline.telemetry import Reading

log = logging.getLogger(__name__)

_MANY = 16
"""Segments of one table and day of the same size class beyond which they are merged: a read opens each of them."""
_MERGE_ROWS = 8_000_000
"""Rows of a merged segment, at most; fewer where so many cannot be sorted in half of DuckDB's memory."""
_QUIET_S = 600.0
"""A past day that nobody wrote to for this long is finished."""
_LOOK_S = 86400.0
_LOOK_BYTES = 64 << 20
"""Each segment is looked at once in so long; of all of them so much in one round, 2 MB/s where a round is 30 s."""


class Upkeep:
    """The upkeep of one store, in a thread of its own."""

    def __init__(self, settings: Settings, store: Store) -> None:
        """Keep `store` as `settings` say; `start` begins."""
        self.settings, self.store = settings, store
        self.merged = self.dropped = 0
        self._looked: dict[Path, float] = {}
        self._may_look = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after what is under way."""
        self._stop.set()
        self.store.suspect.set()
        if self._thread.is_alive():
            self._thread.join(30)

    def _loop(self) -> None:
        while not self._stop.is_set():
            damaged = self.store.suspect.wait(self.settings.correlator_upkeep_s)
            if self._stop.is_set():
                return
            try:
                if damaged:
                    self.store.suspect.clear()
                    heal(self.store)
                self.run_once()
            except (StoreError, duckdb.Error, OSError) as error:
                log.warning("upkeep: %s", str(error).splitlines()[0])

    def run_once(self) -> None:
        """Do what is due now. Raises StoreError, duckdb.Error or OSError where the disk or the store fails."""
        self.drop_old_days()
        for number in sorted(self.store.days):
            if self._stop.is_set():
                return
            day = self.store.days.get(number)
            if day is not None:
                self._keep_day(day)
        self.look_at_files()

    def look_at_files(self) -> None:
        """Read the segments whose turn it is; have all files looked through where one is not what was written."""
        due = list(self._due_for_a_look())
        self._may_look = min(self._may_look + _LOOK_BYTES, _LOOK_BYTES)
        for path, segment in due:
            if self._may_look <= 0 or self._stop.is_set():
                return  # A big file is paid off in the rounds that follow.
            self._may_look -= segment.bytes
            self._looked[path] = time.time()
            if segments.verify(path, segment) is not None and path.exists():
                self.store.suspect.set()

    def _due_for_a_look(self) -> Iterator[tuple[Path, Segment]]:
        present = {d.directory / s.name: s for d in list(self.store.days.values()) for s in list(d.segments.values())}
        self._looked = {path: at for path, at in self._looked.items() if path in present}
        for path, segment in present.items():
            summed = segment.file_crc32 is not None and path.exists()
            if summed and time.time() - self._looked.get(path, path.stat().st_mtime) > _LOOK_S:
                yield path, segment

    # Retention

    def drop_old_days(self) -> None:
        """Drop days that are past the settings' bounds; the oldest first where the store is too big."""
        days, limit_bytes = self.settings.correlator_retention_days, self.settings.correlator_retention_gb * 1e9
        today = time.time_ns() // NS_PER_DAY
        for number in sorted(self.store.days):
            if days and number <= today - days and self._quiet(self.store.days[number]) > days * 86400:
                self._drop(number)
        while limit_bytes and len(self.store.days) > 1 and self.store.bytes > limit_bytes:
            self._drop(min(self.store.days))

    def _drop(self, number: int) -> None:
        self.store.drop_day(number)
        self.dropped += 1

    def _quiet(self, day: Day) -> float:
        """Return for how long nothing was written to a day, in s.

        A recording of last year that is imported today must not be gone tomorrow: what counts is when it came.
        """
        return time.time() - max(path.stat().st_mtime for path in (day.file, day.directory) if path.exists())

    # Merging

    def _keep_day(self, day: Day) -> None:
        finished = day.number < time.time_ns() // NS_PER_DAY and self._quiet(day) > _QUIET_S
        for table in schema.TABLES:
            if finished and table.name in day.tables:
                self.move_rows(day, table)
            due = self._due(day, table, finished)
            if due:
                self.merge(day, table, due)

    def _due(self, day: Day, table: Table, finished: bool) -> list[Segment]:
        """Return the segments to merge now: many small ones, or all that are not sorted yet of a finished day."""
        most = min(_MERGE_ROWS, in_order.fitting(table, self.settings.correlator_memory_limit_mb << 19))
        mine = sorted((s for s in list(day.segments.values()) if s.table == table.name), key=lambda s: s.low_ns)
        fresh = [s for s in mine if s.merged == 0]
        if len(fresh) >= _MANY or (finished and fresh):
            return _up_to(fresh, most)
        small = [s for s in mine if s.merged and s.rows < most // 2]
        return _up_to(small, most) if len(small) >= _MANY or (finished and len(small) > 1) else []

    def merge(self, day: Day, table: Table, old: list[Segment]) -> None:
        """Put one segment, sorted by the table's keys and time, in the place of `old`; reads go on meanwhile.

        Raises StoreError where one of `old` is damaged: merged, it could not be told any more.
        """
        for s in old:
            problem = segments.verify(day.directory / s.name, s)
            if problem is not None:
                self.store.suspect.set()
                raise StoreError(f"segment {day.directory / s.name}: {problem}; it is not merged")
        sources = ", ".join(f"'{day.directory / s.name}'" for s in old)
        columns = [c.name for c in table.columns if any(c.name in s.columns for s in old)]
        batch_ids = [each for s in old for each in segments.describe(day.directory / s.name, table.time)[1]]
        new = self._sorted(day, table, columns, f"read_parquet([{sources}], union_by_name = true)", batch_ids)
        new = dataclasses.replace(new, merged=max(s.merged for s in old) + 1)
        self.store.replace_segments(day, table, [s.name for s in old], new)
        self.merged += len(old)

    def move_rows(self, day: Day, table: Table) -> None:
        """Move the rows that a finished day keeps in its own table into a sorted segment, where they are many."""
        with self.store.lock:  # No row may come between the copy and the removal.
            columns = list(day.tables[table.name])
            count = self.store.query(f"SELECT count(*) FROM {day.alias}.{table.name}")  # noqa: S608 (names of ours)
            if count.column(0)[0].as_py() >= segments.ROWS:
                new = self._sorted(day, table, columns, f"{day.alias}.{table.name}", [])
                self.store.replace_segments(day, table, [], dataclasses.replace(new, merged=1), emptied=True)

    def _sorted(self, day: Day, table: Table, columns: list[str], source: str, batch_ids: list[str]) -> Segment:
        """Write the rows of `source` as one sorted segment, not listed yet."""
        path = day.directory / day.new_name(table.name, "sorted")
        chosen = ", ".join(f'"{column}"' for column in columns)
        order = ", ".join(f'"{column}"' for column in dict.fromkeys((*table.keys, table.time)) if column in columns)
        day.directory.mkdir(exist_ok=True)
        cursor = self.store.cursor()
        try:
            cursor.execute(
                f"COPY (SELECT {chosen} FROM {source} ORDER BY {order}) TO '{path}' (FORMAT parquet,"  # noqa: S608
                " PARQUET_VERSION v2, COMPRESSION lz4_raw, ROW_GROUP_SIZE 131072, KV_METADATA $notes)",
                {"notes": segments.notes(table, batch_ids)},
            )
            segments.sync_file(path)
            sync_directory(day.directory)
            return segments.summed(segments.describe(path, table.time)[0], path)
        except BaseException:
            segments.remove([path])
            raise
        finally:
            cursor.close()

    def readings(self) -> Iterator[Reading]:
        """Yield what upkeep did, for /metrics."""
        yield Reading(
            "warpline.store.segments.merged", self.merged, "{segment}", True, doc="segments merged into others"
        )
        yield Reading("warpline.store.days.dropped", self.dropped, "{day}", True, doc="days dropped by retention")


def _up_to(found: list[Segment], rows: int) -> list[Segment]:
    """Return the first segments that together have at most `rows`, one at least."""
    taken: list[Segment] = []
    total = 0
    for each in found:
        if taken and total + each.rows > rows:
            break
        taken.append(each)
        total += each.rows
    return taken
