"""One UTC day of the store: a DuckDB file, the Parquet segments beside it, and the ledger of the batches that it holds.

A batch's rows, its line in the ledger and its segment's line are one transaction of one file: DuckDB commits to one file
at a time, and this is what makes a batch that comes twice be stored once.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from correlator.storage import segments, spans
from correlator.storage.parts import NS_PER_DAY, Part
from correlator.storage.pieces import Piece, near, select
from correlator.storage.segments import Segment
from warpline import schema
from warpline.errors import StoreError
from warpline.schema import Table

log = logging.getLogger(__name__)

SPAN = schema.table("span")
REFUSED = "rows that the store refuses"
DAMAGED_DAY, DAMAGED_SEGMENT = "day file damaged", "segment damaged"

_OWN_TABLES = (
    "CREATE TABLE IF NOT EXISTS {day}.ledger (batch_id VARCHAR, table_name VARCHAR, row_count BIGINT)",
    "CREATE TABLE IF NOT EXISTS {day}.segment (name VARCHAR, table_name VARCHAR, row_count BIGINT, bytes BIGINT,"
    " low_ns BIGINT, high_ns BIGINT, columns VARCHAR[], merged INTEGER)",
    # NULL where an older Warpline wrote the line.
    "ALTER TABLE {day}.segment ADD COLUMN IF NOT EXISTS footer_crc32 BIGINT",
    "ALTER TABLE {day}.segment ADD COLUMN IF NOT EXISTS file_crc32 BIGINT",
    "CREATE TABLE IF NOT EXISTS {day}.about (schema_version INTEGER)",
)
_BAD_ROWS = (
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.DataError,
    pa.ArrowInvalid,
)


class Day:
    """One day's file, attached to the connection that is given to each call."""

    def __init__(self, root: Path, number: int) -> None:
        """Name the day `number` (days since 1970-01-01, UTC) of the store in `root`; `attach` opens it."""
        self.root, self.number = root, number
        self.date = f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=number):%Y-%m-%d}"
        self.alias = f"day_{self.date.replace('-', '')}"
        self.file, self.directory = root / f"{self.date}.duckdb", root / self.date
        self._dropped = root / f"{self.date}.dropped"
        self.tables: dict[str, tuple[str, ...]] = {}
        self.segments: dict[str, Segment] = {}
        self.losses: Counter[str] = Counter()
        """Rows lost, by reason, until the store takes them over."""
        self._sequence = time.time_ns()  # No name comes twice: a file that waits for its readers may still be deleted.
        self._seen: spans.SeenSpans | None = None

    # Opening

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Open the day's file, or make it; one that was lost is made anew from the segments that lie there.

        A segment whose footer is damaged is taken out, and its rows are counted in `losses`.
        Raises StoreError where another version made the file or another program has it open, duckdb.Error where it is
        damaged.
        """
        lost = not self.file.exists() and not self._dropped.exists()
        try:
            connection.execute(f"ATTACH '{self.file}' AS {self.alias}")
        except duckdb.IOException as error:
            if "Could not set lock" not in str(error):
                raise
            raise StoreError(f"store {self.file}: another program has it open ({error}); end that one first") from None
        try:
            for statement in _OWN_TABLES:
                connection.execute(statement.format(day=self.alias))
            self._check_version(connection)
            self._load_tables(connection)
            if lost:
                self._adopt(connection)
            self._load_segments(connection)
            self._dropped.unlink(missing_ok=True)
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self.detach(connection)
            raise

    def detach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Close the day's file."""
        connection.execute(f"DETACH {self.alias}")

    def drop(self) -> list[Path]:
        """Drop the day, after `detach`; return the files to delete, in order, when nobody reads them any more."""
        self.file.replace(self._dropped)
        self.file.with_name(self.file.name + ".wal").unlink(missing_ok=True)
        return [*(self.directory / name for name in self.segments), self._dropped]

    def _check_version(self, connection: duckdb.DuckDBPyConnection) -> None:
        found = connection.execute(f"SELECT schema_version FROM {self.alias}.about").fetchall()  # noqa: S608 (our alias)
        if not found:
            connection.execute(f"INSERT INTO {self.alias}.about VALUES (?)", [schema.VERSION])  # noqa: S608
        elif found[0][0] > schema.VERSION:
            raise StoreError(
                f"store {self.file}: written by schema version {found[0][0]}, this Warpline knows {schema.VERSION};"
                " run the newer Warpline, or give another state_dir"
            )

    def _load_tables(self, connection: duckdb.DuckDBPyConnection) -> None:
        # Not duckdb_columns(): that binds every view of every database to tell us of a few tables.
        lines = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = ?", [self.alias])
        present = {line[0] for line in lines.fetchall()}
        for table in schema.TABLES:
            if table.name in present:
                columns = connection.execute(f"DESCRIBE {self.alias}.{table.name}").fetchall()
                self._add_columns(connection, table, {line[0]: line[1] for line in columns})
                self.tables[table.name] = tuple(column.name for column in table.columns)

    def _add_columns(self, connection: duckdb.DuckDBPyConnection, table: Table, types: dict[str, str]) -> None:
        for column in table.columns:
            found = types.get(column.name)
            if found is None:
                connection.execute(
                    f'ALTER TABLE {self.alias}.{table.name} ADD COLUMN "{column.name}" {column.type.sql}'
                )
            elif found != column.type.sql:
                raise StoreError(
                    f"store {self.file}: {table.name}.{column.name} is {found}, declared is {column.type.sql};"
                    " move the file away, or give another state_dir"
                )

    def _load_segments(self, connection: duckdb.DuckDBPyConnection) -> None:
        lines = connection.execute(f"SELECT * FROM {self.alias}.segment").fetchall()  # noqa: S608
        self.segments = {
            name: Segment(name, table, rows, size, low, high, tuple(columns), *more)
            for name, table, rows, size, low, high, columns, *more in lines
        }
        if self.directory.is_dir():
            unlisted = [path for path in self.directory.glob("*.parquet") if path.name not in self.segments]
            segments.remove(unlisted)  # Their transaction did not commit: what they hold comes again from the spool.
        for name, each in list(self.segments.items()):
            problem = segments.look(self.directory / name, each)
            if problem is not None:
                log.error("store: %s", self.lose_segment(connection, name, problem))

    def _adopt(self, connection: duckdb.DuckDBPyConnection) -> None:
        times = {table.name: table.time for table in schema.TABLES}
        found_here = sorted(self.directory.glob("*.parquet"))
        if found_here and not any(self.root.glob(f"{self.file.name}.damaged-*")):  # That one was counted then.
            log.error("store: %s is gone; what lies in segments is kept of its day", self.file)
            self.losses[f"{DAMAGED_DAY}: {self.file.name}"] += 1  # At least.
        for path in found_here:
            try:
                found, batch_ids = segments.describe(path, times.get(segments.table_of(path), ""))
            except StoreError as error:
                log.error("%s", error)
                self._keep_aside(path, 1)  # At least.
                continue
            self._list(connection, [segments.summed(found, path)])
            lines = pa.table({"batch_id": batch_ids})
            connection.register("adopted", lines)
            connection.execute(f"INSERT INTO {self.alias}.ledger SELECT batch_id, ?, 0 FROM adopted", [found.table])  # noqa: S608
            connection.unregister("adopted")

    # Writing

    def write(self, connection: duckdb.DuckDBPyConnection, parts: Sequence[Part]) -> set[str]:
        """Store the parts whose batches are not in the ledger yet; return the names of the tables that changed shape.

        A batch whose rows DuckDB refuses is counted in `losses` and keeps only its line in the ledger.
        """
        fresh = self._not_in_ledger(connection, parts)
        if not fresh:
            return set()
        try:
            return self._commit(connection, self._without_known_spans(connection, fresh))
        except _BAD_ROWS as error:
            if len(fresh) > 1:
                return set().union(*(self.write(connection, [part]) for part in fresh))
            part = fresh[0]
            log.warning("store: batch %s of table %s: %s", part.batch_id, part.table.name, str(error).splitlines()[0])
            self.losses[REFUSED] += part.rows.num_rows
            return self._commit(connection, [replace(part, rows=part.rows.slice(0, 0))])

    def _not_in_ledger(self, connection: duckdb.DuckDBPyConnection, parts: Sequence[Part]) -> list[Part]:
        named = pa.table({"batch_id": [part.batch_id for part in parts if part.batch_id]})
        seen = set()
        if named.num_rows:
            connection.register("asked", named)
            seen = set(
                connection.execute(
                    f"SELECT table_name, batch_id FROM {self.alias}.ledger WHERE batch_id IN (FROM asked)"  # noqa: S608
                ).fetchall()
            )
            connection.unregister("asked")
        fresh = []
        for part in parts:
            key = (part.table.name, part.batch_id)
            if key not in seen:
                fresh.append(part)
                if part.batch_id:
                    seen.add(key)
        return fresh

    def _without_known_spans(self, connection: duckdb.DuckDBPyConnection, parts: Sequence[Part]) -> list[Part]:
        """Return the parts, those of `span` without spans that are stored already, whatever batch brought them."""
        kept = [part for part in parts if part.table is not SPAN]
        mine = [part for part in parts if part.table is SPAN]
        if mine:
            seen = self._seen_spans(connection)
            fresh = seen.fresh([part.rows for part in mine], lambda *asked: self._find_spans(connection, *asked))
            mine = [
                part if mask.all() else replace(part, rows=part.rows.filter(pa.array(mask)))
                for part, mask in zip(mine, fresh, strict=True)
            ]
        return kept + mine

    def _seen_spans(self, connection: duckdb.DuckDBPyConnection) -> spans.SeenSpans:
        if self._seen is None:
            self._seen = spans.SeenSpans()
            with connection.sql(_ids_of(self.pieces(SPAN))).to_arrow_reader() as found:
                for batch in found:
                    self._seen.add(pa.Table.from_batches([batch]))
        return self._seen

    def _find_spans(self, connection: duckdb.DuckDBPyConnection, asked: spans.Keys, low: int, high: int) -> spans.Keys:
        connection.register("asked_spans", pa.table({"span_id": np.unique(asked[:, 2])}))
        found = connection.sql(
            _ids_of(near(self.pieces(SPAN), low, high))
            + " WHERE start_ns BETWEEN $low AND $high AND span_id IN (FROM asked_spans)",
            params={"low": low, "high": high},
        ).to_arrow_table()
        connection.unregister("asked_spans")
        return spans.keys_of(found)

    def _commit(self, connection: duckdb.DuckDBPyConnection, parts: Sequence[Part]) -> set[str]:
        by_table: dict[str, list[Part]] = defaultdict(list)
        for part in parts:
            by_table[part.table.name].append(part)
        written: list[Segment] = []
        made: set[str] = set()
        connection.execute("BEGIN")
        try:
            for name, group in by_table.items():
                if sum(part.rows.num_rows for part in group) >= segments.ROWS:
                    written.append(self._write_segment(group))
                elif self._insert(connection, group):
                    made.add(name)
            self._list(connection, written)
            self._insert_ledger(connection, parts)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                connection.execute("ROLLBACK")
            segments.remove(self.directory / each.name for each in written)
            raise
        self.tables |= {name: tuple(column.name for column in schema.table(name).columns) for name in made}
        self.segments |= {each.name: each for each in written}
        return made | {each.table for each in written}

    def new_name(self, table: str, mark: str = "") -> str:
        """Return a file name that no segment has; threads that make segments at once give different marks."""
        while True:
            self._sequence += 1
            name = f"{table}-{mark}{self._sequence:06d}.parquet"
            if name not in self.segments and not (self.directory / name).exists():
                return name

    def _write_segment(self, group: Sequence[Part]) -> Segment:
        table = group[0].table
        rows = pa.concat_tables([part.rows for part in group])
        ids = [part.batch_id for part in group]
        return segments.write(self.directory, self.new_name(table.name), table, rows, ids)

    def _insert(self, connection: duckdb.DuckDBPyConnection, group: Sequence[Part]) -> bool:
        """Insert rows into the day's own table; return whether it had to be made."""
        table = group[0].table
        rows = pa.concat_tables([part.rows for part in group])
        if not rows.num_rows:
            return False
        made = table.name not in self.tables
        if made:
            for statement in table.ddl(self.alias):
                connection.execute(statement)
        columns = ", ".join(f'"{name}"' for name in rows.column_names)
        connection.register("incoming", rows)  # Where the INSERT fails, the next registration takes the name over.
        connection.execute(
            f"INSERT INTO {self.alias}.{table.name} ({columns}) SELECT {columns} FROM incoming"  # noqa: S608
        )
        connection.unregister("incoming")
        return made

    def _list(self, connection: duckdb.DuckDBPyConnection, written: Iterable[Segment]) -> None:
        for each in written:
            values = [each.name, each.table, each.rows, each.bytes, each.low_ns, each.high_ns, list(each.columns)]
            connection.execute(
                f"INSERT INTO {self.alias}.segment VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                [*values, each.merged, each.footer_crc32, each.file_crc32],
            )

    def _insert_ledger(self, connection: duckdb.DuckDBPyConnection, parts: Iterable[Part]) -> None:
        lines = [(p.batch_id, p.table.name, p.rows.num_rows) for p in parts if p.batch_id]
        if lines:
            columns = [pa.array(column) for column in zip(*lines, strict=True)]
            connection.register("ledger_lines", pa.Table.from_arrays(columns, ["batch_id", "table_name", "row_count"]))
            connection.execute(f"INSERT INTO {self.alias}.ledger SELECT * FROM ledger_lines")  # noqa: S608
            connection.unregister("ledger_lines")

    def replace(self, connection: duckdb.DuckDBPyConnection, old: Sequence[str], new: Segment, emptied: bool) -> None:
        """Put segment `new` in the place of segments `old` and, where `emptied`, of the day's own table's rows."""
        connection.execute("BEGIN")
        try:
            connection.execute(f"DELETE FROM {self.alias}.segment WHERE name IN (SELECT unnest(?))", [list(old)])  # noqa: S608
            self._list(connection, [new])
            if emptied:
                connection.execute(f"DELETE FROM {self.alias}.{new.table}")  # noqa: S608
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                connection.execute("ROLLBACK")
            raise
        self.segments = {name: each for name, each in self.segments.items() if name not in old} | {new.name: new}

    def take_over(self, connection: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> None:
        """Keep rows of another day, with their own times: one that is about to be dropped."""
        new = segments.write(self.directory, self.new_name(table.name, "lasting-"), table, rows, [])
        try:
            self._list(connection, [new])
        except BaseException:
            segments.remove([self.directory / new.name])
            raise
        self.segments |= {new.name: new}

    def lose_segment(self, connection: duckdb.DuckDBPyConnection, name: str, problem: str) -> str:
        """List a damaged segment no more, keep its file aside, count its rows in `losses`; return what to say of it."""
        lost, path = self.segments[name], self.directory / name
        self._keep_aside(path, lost.rows)
        connection.execute(f"DELETE FROM {self.alias}.segment WHERE name = ?", [name])  # noqa: S608 (our alias)
        self.segments = {each: found for each, found in self.segments.items() if each != name}
        return f"{path} is damaged ({problem.splitlines()[0]}): {lost.rows} rows of {lost.table} are lost"

    def _keep_aside(self, path: Path, rows: int) -> None:
        if path.exists():
            path.rename(path.with_name(f"{path.name}.damaged"))
        self.losses[f"{DAMAGED_SEGMENT}: {self.date}/{path.name}"] += rows

    # Reading

    def pieces(self, table: Table) -> list[Piece]:
        """Return where the day's rows of `table` lie."""
        found = []
        if table.name in self.tables:
            begin = self.number * NS_PER_DAY
            own = f"{self.alias}.{table.name}"
            found.append(Piece(own, self.tables[table.name], begin, begin + NS_PER_DAY - 1, is_file=False))
        mine = (each for each in list(self.segments.values()) if each.table == table.name)
        found += [Piece(f"'{self.directory / each.name}'", each.columns, each.low_ns, each.high_ns) for each in mine]
        return found

    @property
    def bytes(self) -> int:
        """Bytes that the day takes on disk."""
        own = (self.file, self.file.with_name(self.file.name + ".wal"))
        return sum(path.stat().st_size for path in own if path.exists()) + sum(s.bytes for s in self.segments.values())


def lying_in(root: Path) -> list[int]:
    """Return the days (since 1970-01-01) whose files lie in `root`; of one that was being dropped the rest is deleted."""
    for dropped in root.glob("*.dropped"):
        if not dropped.with_suffix(".duckdb").exists():
            segments.remove(dropped.with_suffix("").glob("*.parquet"))
            dropped.unlink()
    files = [*root.glob("????-??-??.duckdb"), *(path.parent for path in root.glob("????-??-??/*.parquet"))]
    return sorted({int(np.datetime64(file.name[:10], "D").astype(int)) for file in files})


def _ids_of(pieces: Sequence[Piece]) -> str:
    return f"SELECT t.trace_id::BLOB AS trace_id, span_id FROM ({select(SPAN, pieces)}) AS t"  # noqa: S608 (ours)
