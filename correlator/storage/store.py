"""What is kept: one DuckDB file for each UTC day with its Parquet segments, read through one view per table.

One process owns the files. Batches are stored once, whatever is sent twice or breaks in between: each day's file keeps
the ledger of its batch ids. All SQL of the correlator runs through here.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from correlator.joins.results import Changes, Results
from correlator.storage import lasting, prices
from correlator.storage.catalogue import Catalogue
from correlator.storage.day import DAMAGED_DAY, Day, lying_in
from correlator.storage.owner import Owner
from correlator.storage.parts import NS_PER_DAY, Part, split
from correlator.storage.pieces import Piece, narrowed, select
from correlator.storage.readers import Readers
from correlator.storage.segments import Segment
from warpline import schema
from warpline.batch import Batch
from warpline.errors import SchemaError, StoreError
from warpline.schema import Table
from warpline.settings import Settings
from warpline.spool import free_bytes

log = logging.getLogger(__name__)

MISFIT = "rows that do not fit the schema"
TOO_MANY_DAYS = "rows of too many different days"

_MOST_DAYS = 366
_CHUNK_ROWS = 65536
_CLOSING_S = 5.0
_DAMAGE = ("corrupt", "checksum", "parquet", "failed to read", "could not read", "no files found", "invalid")
"""Words of DuckDB's errors on damaged files; one too many costs a look through the files, no more."""
_DEAD = (duckdb.FatalException, duckdb.InternalException)
Result = TypeVar("Result")
# What it warns of, a copy of each row, is less than half of what a second plan costs where rows are few.
warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")


class DiskFull(StoreError):
    """The disk's reserve is reached: nothing is written until space returns."""


class Store:
    """The store of one state directory. Safe to share between threads; reads do not wait for writes."""

    def __init__(self, settings: Settings) -> None:
        """Open the store; raise StoreError where it cannot be, with what to do."""
        self.settings = settings
        self.root = Path(settings.state_dir) / "store"
        self.reserve_bytes = settings.correlator_disk_reserve_mb << 20
        self.losses: Counter[str] = Counter()
        self.rows_written: Counter[str] = Counter()
        self.days: dict[int, Day] = {}
        self.lock = threading.RLock()
        self.readers = Readers()
        self.suspect = threading.Event()
        """Set when a read met damaged bytes: upkeep then looks through all files."""
        self.changes = Changes()
        """Stretches of time that got rows, for the joins."""
        self.catalogue = Catalogue(settings.correlator_memory_limit_mb)
        self._pieces: dict[str, list[Piece]] = {}
        """Where the rows of each table lie, as its view has it."""
        self._generation = 0
        try:
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)
            self._owner = Owner(self.root)
        except OSError as error:
            raise StoreError(f"store {self.root}: {error}; give a state_dir that can be written") from None
        self.results = Results(self.root / "results", self.readers)
        self._open()

    # Opening

    def _open(self) -> None:
        self._main = duckdb.connect(":memory:", config=self._config())
        self._main.execute("SET parquet_metadata_cache = true")
        prices.install(self._main, self.settings.correlator_gpu_price)
        self.writer = self._main.cursor()
        self.days = {}
        for number in lying_in(self.root):
            self.attach(number)
        for table in schema.TABLES:
            self.publish(table)
        self.catalogue.create(self.writer)

    def _config(self) -> dict[str, Any]:
        return {
            "memory_limit": f"{self.settings.correlator_memory_limit_mb}MB",
            "threads": max(os.cpu_count() or 1, 1),
            "temp_directory": str(self.root / "tmp"),
            "preserve_insertion_order": False,
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
        }

    def attach(self, number: int) -> Day:
        """Open or make a day's file; a damaged one is set aside, and its segments are taken over by a new one."""
        day = Day(self.root, number)
        try:
            day.attach(self.writer)
        except duckdb.Error as error:
            self.set_aside(day, error)
            day = Day(self.root, number)
            day.attach(self.writer)
        self.take_losses(day)
        self.days[number] = day
        return day

    def take_losses(self, day: Day) -> None:
        """Count what a day lost."""
        self.losses.update(day.losses)
        day.losses.clear()

    def set_aside(self, day: Day, error: Exception | str, lost: int = 1) -> None:
        """Rename a damaged day file, name it in the log and count it: a new one takes over its segments."""
        aside = day.file.with_name(f"{day.file.name}.damaged-{os.urandom(3).hex()}")
        log.error("store: %s is damaged (%s); it is kept as %s", day.file, str(error).splitlines()[0], aside.name)
        day.file.rename(aside)
        wal = day.file.with_name(day.file.name + ".wal")
        if wal.exists():
            wal.rename(aside.with_name(aside.name + ".wal"))
        self.losses[f"{DAMAGED_DAY}: {day.file.name}"] += lost

    def publish(self, table: Table) -> None:
        """Make the view of `table` over all days anew."""
        pieces = [each for number in sorted(self.days) for each in self.days[number].pieces(table)]
        pieces += self.results.pieces(table)
        self.writer.execute(f"CREATE OR REPLACE VIEW {table.name} AS {select(table, pieces)}")
        self._pieces[table.name] = pieces

    def close(self) -> None:
        """Write what is in memory to the files and close them."""
        with self.lock:
            with contextlib.suppress(duckdb.Error, StoreError):
                self.checkpoint()
            self._close_main()
            self._owner.release()

    def _close_main(self) -> None:
        """Close DuckDB, which refuses while a read of another thread runs: wait a little for that to end."""
        until = time.monotonic() + _CLOSING_S
        while True:
            try:
                self._main.close()
                return
            except duckdb.ResourceInUseException:
                if time.monotonic() > until:
                    raise
                time.sleep(0.005)

    # Writing

    def write(self, batches: Sequence[Batch]) -> None:
        """Store the batches, each once: those whose id a day's ledger holds are passed over.

        Rows that do not fit are counted in `losses`. Raises DiskFull below the reserve, StoreError where the disk fails;
        then the call may be repeated: what was stored is known by its id.
        """
        by_table: dict[str, list[Batch]] = defaultdict(list)
        for batch in batches:
            by_table[batch.table.name].append(batch)
        parts: dict[int, list[Part]] = defaultdict(list)
        for group in by_table.values():
            for number, part in self._fitting(group):
                parts[number].append(part)
        with self.lock:
            self._check_reserve()
            changed = self._guarded(lambda: self._write_days(parts))
            for name in changed:
                self.publish(schema.table(name))
            # Only now can whoever hears of them read them.
            for part in itertools.chain.from_iterable(parts.values()):
                self.changes.note(part.table.name, part.low_ns, part.high_ns)

    def _write_days(self, parts: Mapping[int, Sequence[Part]]) -> set[str]:
        changed: set[str] = set()
        for number, group in sorted(parts.items()):
            day = self.days.get(number)
            if day is None:
                if len(self.days) >= _MOST_DAYS:
                    self.losses[TOO_MANY_DAYS] += sum(part.rows.num_rows for part in group)
                    continue
                day = self.attach(number)
            changed |= day.write(self.writer, group)
            self.take_losses(day)
            for part in group:
                self.rows_written[part.table.name] += part.rows.num_rows
        return changed

    def _fitting(self, batches: Sequence[Batch]) -> list[tuple[int, Part]]:
        """Return the rows of batches of one table by day; batches that do not fit are counted and passed over."""
        try:
            return list(split(batches[0].table, batches))
        except SchemaError as error:
            if len(batches) > 1:
                return [found for batch in batches for found in self._fitting([batch])]
            log.warning("store: batch %s: %s", batches[0].batch_id, error)
            self.losses[MISFIT] += batches[0].rows.num_rows
            return []

    def _check_reserve(self) -> None:
        free = free_bytes(self.root)
        if free < self.reserve_bytes:
            raise DiskFull(f"store {self.root}: {free >> 20} MiB are free, {self.reserve_bytes >> 20} MiB are reserved")

    def put(self, since_ns: int, until_ns: int, found: Mapping[str, pa.Table], piece_ns: int = 0) -> None:
        """Put what the joins found in [since_ns, until_ns), by table, in the place of what they had found there before;
        in files of `piece_ns` of time each, where that is given.

        Raises DiskFull below the reserve, StoreError where the disk fails.
        """
        with self.lock:
            self._check_reserve()
            for name, rows in found.items():
                table = schema.table(name)
                self._guarded(partial(self.results.put, table, since_ns, until_ns, rows, piece_ns))
                self.publish(table)

    def forget_results(self) -> None:
        """Drop all that the joins found."""
        with self.lock:
            for name in self.results.clear():
                self.publish(schema.table(name))

    def compact_results(self) -> bool:
        """Merge small files of results, a run of them for each table; return whether any were merged."""
        merged = False
        with self.lock:
            for table in schema.TABLES:
                if self._guarded(partial(self.results.compact, table)):
                    self.publish(table)
                    merged = True
        return merged

    def checkpoint(self) -> None:
        """Move what the days' write-ahead logs hold into their files: what was written before is then safe.

        Raises StoreError where the disk does not take it.
        """
        with self.lock:
            self._guarded(lambda: [self.writer.execute(f"CHECKPOINT {day.alias}") for day in self._dirty()])

    def _dirty(self) -> list[Day]:
        return [day for day in self.days.values() if day.file.with_name(day.file.name + ".wal").exists()]

    def _guarded(self, work: Callable[[], Result]) -> Result:
        """Run a write; where DuckDB died of it, open the files again, and say in either case what is wrong."""
        try:
            return work()
        except (duckdb.Error, OSError) as error:
            if isinstance(error, _DEAD) or "invalidated" in str(error):
                self.reopen(self._generation)
            raise self._failed(error) from None

    def reopen(self, generation: int | None = None) -> None:
        """Open the files again, unless another thread has done so since `generation`."""
        with self.lock:
            if generation not in (None, self._generation):
                return
            log.warning("store %s: opening the files again", self.root)
            self._generation += 1
            with contextlib.suppress(duckdb.Error):
                self._main.close()
            self._open()

    def drop_day(self, number: int) -> None:
        """Drop a day: its rows are gone from every view at once, its files when no read needs them any more.

        What it alone tells of what goes on is carried over to the next day.
        """
        with self.lock:
            self._carry_over(number)
            day = self.days.pop(number)
            lost = self.results.drop_before((number + 1) * NS_PER_DAY)
            for table in schema.TABLES:
                if table.name in lost or day.pieces(table):
                    self.publish(table)
            self._guarded(lambda: day.detach(self.writer))
            self.readers.remove(day.drop())
        log.info("store: dropped %s", day.date)

    def _carry_over(self, number: int) -> None:
        """Write what the day alone tells of what goes on into the newest day: an older one would seem to be in use again."""
        kept = [day for each, day in self.days.items() if each != number]
        if not kept or max(self.days) == number:
            return
        try:
            for table, rows in self._guarded(lambda: lasting.rows(self.writer, self.days[number], kept)):
                self._guarded(partial(self.days[max(self.days)].take_over, self.writer, table, rows))
                self.publish(table)
        except StoreError as error:  # The day goes all the same: it may be what fills the disk.
            self.losses[lasting.NOT_CARRIED] += 1
            log.warning("%s; processes and pods that %s told of are no longer known", error, self.days[number].date)

    def replace_segments(self, day: Day, table: Table, old: Sequence[str], new: Segment, emptied: bool = False) -> None:
        """Put a merged segment in the place of those it was made of and, where `emptied`, of the day's own rows."""
        with self.lock:
            self._guarded(lambda: day.replace(self.writer, old, new, emptied))
            self.publish(table)
            self.readers.remove([day.directory / name for name in old])

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor of its own, for the correlator's own long work; close it."""
        return self._main.cursor()

    @property
    def bytes(self) -> int:
        """Bytes that all days take on disk."""
        return sum(day.bytes for day in list(self.days.values()))

    # Reading

    def views(self) -> list[dict[str, Any]]:
        """Return what views there are: name, doc, parameters, and columns with their DuckDB types."""
        return self.catalogue.described(self)

    def view(self, name: str, parameters: Mapping[str, Any] | None = None) -> pa.RecordBatchReader:
        """Return a view's rows as they come. A table's name reads the table.

        `parameters` are the view's own and, for every view, since_ns, until_ns (rows that overlap [since, until)), limit
        and order (a column, with - before it for descending). Raises SchemaError for a view that does not exist, StoreError
        for parameters that do not fit and for a query that fails. Close the reader, or read it to its end.
        """
        return self.catalogue.answer(self, name, parameters or {})

    def read(self, sql: str, bound: Mapping[str, Any] | None = None, few: bool = False) -> pa.RecordBatchReader:
        """Return the rows of a query of the correlator's own, as they come; raise StoreError where it fails.

        Where they are `few`, all of them are in memory at once: the query is planned once then, not twice.
        """
        generation = self._generation
        try:
            return self._read(sql, bound or {}, few)
        except _DEAD:
            self.reopen(generation)
        except duckdb.ConnectionException:
            pass  # The store was opened again between our look at it and the query.
        return self._read(sql, bound or {}, few)

    def _read(self, sql: str, bound: Mapping[str, Any], few: bool) -> pa.RecordBatchReader:
        token = self.readers.enter()
        try:
            cursor = self._main.cursor()
            text, values = narrowed(sql, bound, self._pieces, self.catalogue.plain), dict(bound)
            # A relation plans its query to know its columns, and once more to run it.
            found = cursor.execute(text, values) if few else cursor.sql(text, params=values)
            reader = found.to_arrow_reader(_CHUNK_ROWS)
        except BaseException as error:
            self.readers.leave(token)
            if isinstance(error, duckdb.Error) and not isinstance(error, (*_DEAD, duckdb.ConnectionException)):
                raise self._failed(error) from None
            raise
        batches = self._batches(token, cursor, reader)
        next(batches)  # A generator that never began does not come to its end either, when nobody wants it any more.
        return pa.RecordBatchReader.from_batches(reader.schema, batches)

    def _batches(self, token: int, cursor: Any, reader: pa.RecordBatchReader) -> Iterator[Any]:
        try:
            yield None
            yield from reader
        except (OSError, pa.ArrowException, duckdb.Error) as error:
            raise self._failed(error) from None
        finally:
            cursor.close()
            self.readers.leave(token)

    def _failed(self, error: Exception) -> StoreError:
        sentence = str(error).strip().splitlines()[0]
        if any(word in sentence.lower() for word in _DAMAGE):
            self.suspect.set()
        return StoreError(f"store {self.root}: {sentence}")

    def query(self, sql: str, bound: Mapping[str, Any] | None = None) -> pa.Table:
        """Return all rows of a query of the correlator's own: what joins and alert rules run."""
        return self.read(sql, bound).read_all()
