"""Where the joins keep what they found: Parquet files by stretch of time, each stretch put anew as often as needed.

What comes in is stored once and for good (store.py); what follows from it may change when a late row comes. So results have
no ledger: a stretch of time of one table is replaced as a whole, by files that appear complete under a new name before
the old ones go. They can be lost without harm: `warpline correlate --rebuild` makes them again.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from correlator.storage.readers import Readers
from warpline.schema import Table, Type

_NAME = re.compile(r"^(?P<table>[a-z_]+)\.(?P<since>-?\d+)\.(?P<until>-?\d+)\.(?P<number>\d+)\.parquet$")
_FEW_ROWS = 500_000
"""Neighbouring files are merged until one holds so many rows: a read opens each of them."""
_MANY_FILES = 24
_ROW_GROUP = 131072
_FOUND_BY = {"alias": ("value", "attempt_uid", "request_uid")}
"""Tables that are asked for one id among all: a Bloom filter says which few rows may have it. A request's aliases among
400,000 then cost 8 ms instead of 53 (CPU time)."""
_FOUND_ROWS = 16384
"""Rows of such a table that are read for one id."""


@dataclass(frozen=True, slots=True)
class ResultFile:
    """One file: rows of `table` with times in [since_ns, until_ns)."""

    path: Path
    table: str
    since_ns: int
    until_ns: int


class Results:
    """The results in one directory. Not safe between threads: the store calls it under its lock."""

    def __init__(self, root: Path, readers: Readers) -> None:
        """Find what is in `root`; of files of one stretch the last number holds, the others are left-overs."""
        self.root, self.readers = root, readers
        self.files: dict[str, list[ResultFile]] = defaultdict(list)
        root.mkdir(parents=True, exist_ok=True)
        found = sorted((int(m["number"]), p, m) for p in root.glob("*.parquet") if (m := _NAME.match(p.name)))
        self._numbers = itertools.count(found[-1][0] + 1 if found else 0)
        for _, path, match in found:
            this = ResultFile(path, match["table"], int(match["since"]), int(match["until"]))
            covered = [f for f in self.files[this.table] if _inside(f, this)]
            readers.remove(f.path for f in covered)
            self.files[this.table] = [f for f in self.files[this.table] if f not in covered] + [this]
        for path in root.glob("*.part"):
            path.unlink()

    def put(self, table: Table, since_ns: int, until_ns: int, rows: pa.Table) -> None:
        """Put `rows` in the place of all rows of `table` in [since_ns, until_ns); their order is kept."""
        old = [f for f in self.files[table.name] if f.since_ns < until_ns and since_ns < f.until_ns]
        kept = [self._outside(f, table, since_ns, until_ns) for f in old]
        low, high = min([since_ns, *(f.since_ns for f in old)]), max([until_ns, *(f.until_ns for f in old)])
        parts = [part for part in kept if part.num_rows] + ([rows] if rows.num_rows else [])
        new = [self._write(table, low, high, parts)] if parts else []
        self._exchange(table.name, old, new)

    def compact(self, table: Table) -> bool:
        """Merge the small files of `table` where they are many; return whether anything changed."""
        small = sorted((f for f in self.files[table.name]), key=lambda f: f.since_ns)[:-2]
        small = [f for f in small if pq.read_metadata(f.path).num_rows < _FEW_ROWS]
        if len(small) < _MANY_FILES:
            return False
        rows = 0
        chosen: list[ResultFile] = []
        for each in small:
            rows += pq.read_metadata(each.path).num_rows
            if chosen and (rows > 2 * _FEW_ROWS or each.since_ns != chosen[-1].until_ns):
                break
            chosen.append(each)
        if len(chosen) < 2:
            return False
        merged = self._write(table, chosen[0].since_ns, chosen[-1].until_ns, [pq.read_table(f.path) for f in chosen])
        self._exchange(table.name, chosen, [merged])
        return True

    def drop_before(self, until_ns: int) -> set[str]:
        """Drop files that end at or before `until_ns`; return the tables that lost some."""
        lost = {name for name, files in self.files.items() if any(f.until_ns <= until_ns for f in files)}
        for name in lost:
            self._exchange(name, [f for f in self.files[name] if f.until_ns <= until_ns], [])
        return lost

    def clear(self) -> set[str]:
        """Drop all results; return the tables that had some."""
        return self.drop_before(2**63 - 1)

    def select(self, table: Table) -> list[str]:
        """Return the query that gives the rows of `table`, in a list; an empty one where there are none."""
        files = self.files.get(table.name)
        if not files:
            return []
        paths = ", ".join(f"'{f.path}'" for f in files)
        columns = ", ".join(f'"{c.name}"::{_shown(c.type)} AS "{c.name}"' for c in table.columns)
        return [f"SELECT {columns} FROM read_parquet([{paths}], union_by_name = true)"]  # noqa: S608 (names of ours)

    def _outside(self, file: ResultFile, table: Table, since_ns: int, until_ns: int) -> pa.Table:
        if since_ns <= file.since_ns and file.until_ns <= until_ns:
            return pa.table({})
        rows = pq.read_table(file.path)
        time = np.asarray(rows[table.time].to_numpy())
        return rows.filter(pa.array((time < since_ns) | (time >= until_ns)))

    def _write(self, table: Table, since_ns: int, until_ns: int, parts: Iterable[pa.Table]) -> ResultFile:
        rows = pa.concat_tables([_plain(part) for part in parts], promote_options="permissive").unify_dictionaries()
        path = self.root / f"{table.name}.{since_ns}.{until_ns}.{next(self._numbers)}.parquet"
        hidden = path.with_suffix(".part")
        words = [f.name for f in rows.schema if pa.types.is_dictionary(f.type)]
        found = {c: {"ndv": _FOUND_ROWS} for c in _FOUND_BY.get(table.name, ()) if c not in words}
        group = _FOUND_ROWS if found else _ROW_GROUP
        pq.write_table(
            rows,
            hidden,
            compression="lz4",
            use_dictionary=words,
            row_group_size=group,
            bloom_filter_options=found or None,
        )
        hidden.rename(path)
        return ResultFile(path, table.name, since_ns, until_ns)

    def _exchange(self, name: str, old: list[ResultFile], new: list[ResultFile]) -> None:
        self.files[name] = [f for f in self.files[name] if f not in old] + new
        self.readers.remove(f.path for f in old)


def _inside(inner: ResultFile, outer: ResultFile) -> bool:
    return outer.since_ns <= inner.since_ns and inner.until_ns <= outer.until_ns


def _plain(rows: pa.Table) -> pa.Table:
    """Return rows with all dictionaries of one type, so that parts of different origin join."""
    for i, f in enumerate(rows.schema):
        if pa.types.is_dictionary(f.type) and f.type.index_type != pa.int32():
            rows = rows.set_column(i, f.name, pc.cast(rows[f.name], pa.dictionary(pa.int32(), pa.string())))
    return rows


def _shown(kind: Type) -> str:
    return "VARCHAR" if kind is Type.JSON else kind.sql


_MOST_CHANGES = 100_000


def _envelopes(found: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    by_table: dict[str, tuple[int, int]] = {}
    for table, since, until in found:
        low, high = by_table.get(table, (since, until))
        by_table[table] = (min(low, since), max(high, until))
    return [(table, low, high) for table, (low, high) in by_table.items()]


class Changes:
    """Which stretches of time of which tables got rows since somebody last asked."""

    def __init__(self) -> None:
        """Begin with nothing changed."""
        self._lock = threading.Lock()
        self._found: list[tuple[str, int, int]] = []

    def note(self, table: str, since_ns: int, until_ns: int) -> None:
        """Note that rows of `table` with times in [since_ns, until_ns] came."""
        with self._lock:
            self._found.append((table, since_ns, until_ns))
            if len(self._found) > _MOST_CHANGES:  # Nobody asks: one stretch a table says enough.
                self._found = _envelopes(self._found)

    def __len__(self) -> int:
        """Return how many writes nobody has asked about."""
        return len(self._found)

    def take(self) -> list[tuple[str, int, int]]:
        """Return (table, least time, greatest time) of all writes since the last call."""
        with self._lock:
            found, self._found = self._found, []
            return found
