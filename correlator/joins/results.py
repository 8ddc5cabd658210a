"""Where the joins keep what they found: Parquet files by stretch of time, each stretch put anew as often as needed.

What comes in is stored once and for good (store.py); what follows from it may change when a late row comes. So results have
no ledger: a stretch of time of one table is replaced as a whole, by files that appear complete under a new name before
the old ones go. They can be lost without harm: `warpline correlate --rebuild` makes them again.
"""

from __future__ import annotations

import itertools
import logging
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

from correlator.storage.parts import NS_PER_DAY
from correlator.storage.pieces import Piece
from correlator.storage.readers import Readers
from warpline.schema import Table

log = logging.getLogger(__name__)

_NAME = re.compile(r"^(?P<table>[a-z_]+)\.(?P<since>-?\d+)\.(?P<until>-?\d+)\.(?P<number>\d+)\.parquet$")
_FEW_ROWS = 500_000
"""Neighbouring files are merged until one holds so many rows: a read opens each of them."""
_MANY_FILES = 24
_FRESH_FILES = 8
"""The last files are not merged: what comes late makes them anew."""
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
    rows: int
    columns: tuple[str, ...]
    """Those that hold values of their own type: an older version's file may lack some."""


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
            this = ResultFile(path, match["table"], int(match["since"]), int(match["until"]), *_measured(path))
            covered = [f for f in self.files[this.table] if _inside(f, (this.since_ns, this.until_ns))]
            readers.remove(f.path for f in covered)
            self.files[this.table] = [f for f in self.files[this.table] if f not in covered] + [this]
        for path in root.glob("*.part"):
            path.unlink()

    def put(self, table: Table, since_ns: int, until_ns: int, rows: pa.Table, piece_ns: int = 0) -> None:
        """Put `rows` in the place of all rows of `table` in [since_ns, until_ns); their order is kept.

        They become one file, or one for each `piece_ns`: what is put anew piece by piece needs no other rows written again.
        A file that the stretch cuts, or that holds several pieces, is made anew as a whole: its stretch of time stays.
        """
        window = (since_ns, until_ns)
        old = [f for f in self.files[table.name] if f.since_ns < until_ns and since_ns < f.until_ns]
        cut = [f for f in old if f.since_ns < since_ns or until_ns < f.until_ns or f.until_ns - f.since_ns > piece_ns]
        stretches = [*((f.since_ns, f.until_ns) for f in cut), *_rest(window, cut, piece_ns)]
        new = [self._renewed(table, stretch, window, rows, cut) for stretch in stretches]
        self._exchange(table.name, old, [each for each in new if each])

    def _renewed(
        self,
        table: Table,
        stretch: tuple[int, int],
        window: tuple[int, int],
        rows: pa.Table,
        cut: list[ResultFile],
    ) -> ResultFile | None:
        """Write the file of `stretch`: of `rows` what is in it, of the old file what lies outside of the window."""
        parts = [_between(rows, table, *stretch)]
        for file in cut:
            if (file.since_ns, file.until_ns) == stretch and not _inside(file, window):
                kept = pq.read_table(file.path)
                before, after = (stretch[0], window[0]), (window[1], stretch[1])
                parts = [_between(kept, table, *before), *parts, _between(kept, table, *after)]
        parts = [part for part in parts if part.num_rows]
        return self._write(table, *stretch, parts) if parts else None

    def any_in(self, table: str, since_ns: int, until_ns: int) -> bool:
        """Say whether there may be rows of `table` in [since_ns, until_ns)."""
        return any(f.since_ns < until_ns and since_ns < f.until_ns for f in self.files.get(table, ()))

    def compact(self, table: Table) -> bool:
        """Merge the small files of `table` where they are many; return whether anything changed."""
        ordered = sorted(self.files[table.name], key=lambda f: f.since_ns)[:-_FRESH_FILES]
        if sum(f.rows < _FEW_ROWS for f in ordered) < _MANY_FILES:
            return False
        chosen: list[ResultFile] = []
        for each in ordered:  # Neighbours of one day: what a merged file spans, no other file may.
            small, day = each.rows < _FEW_ROWS, each.since_ns // NS_PER_DAY
            fits = small and all(f.since_ns // NS_PER_DAY == day for f in chosen)
            if len(chosen) > 1 and not (fits and sum(f.rows for f in chosen) < _FEW_ROWS):
                break
            chosen = [*(chosen if fits else []), *([each] if small else [])]
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

    def pieces(self, table: Table) -> list[Piece]:
        """Return where the rows of `table` lie; of a damaged file nothing can be read."""
        files = (f for f in self.files.get(table.name, ()) if f.columns)
        return [Piece(f"'{f.path}'", f.columns, f.since_ns, f.until_ns - 1) for f in files]

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
            write_statistics=[f.name for f in rows.schema if pa.types.is_integer(f.type)],  # Of texts they are dear.
            bloom_filter_options=found or None,
        )
        hidden.rename(path)
        return ResultFile(path, table.name, since_ns, until_ns, rows.num_rows, _typed(rows.schema))

    def _exchange(self, name: str, old: list[ResultFile], new: list[ResultFile]) -> None:
        self.files[name] = [f for f in self.files[name] if f not in old] + new
        self.readers.remove(f.path for f in old)


def _inside(file: ResultFile, stretch: tuple[int, int]) -> bool:
    return stretch[0] <= file.since_ns and file.until_ns <= stretch[1]


def _rest(window: tuple[int, int], files: list[ResultFile], piece_ns: int) -> list[tuple[int, int]]:
    """Return the stretches of the window that none of `files` spans, cut into pieces where they have a length."""
    found = []
    low = window[0]
    for begin, end in [*sorted((f.since_ns, f.until_ns) for f in files), (window[1], window[1])]:
        each = piece_ns or max(begin - low, 1)
        found += [(at, min(at + each, begin)) for at in range(low, begin, each)]
        low = max(low, end)
    return found


def _between(rows: pa.Table, table: Table, low_ns: int, high_ns: int) -> pa.Table:
    if not rows.num_rows:
        return rows
    time = np.asarray(rows[table.time].to_numpy())
    inside = (time >= low_ns) & (time < high_ns)
    return rows if inside.all() else rows.filter(pa.array(inside))


def _measured(path: Path) -> tuple[int, tuple[str, ...]]:
    """Return how many rows a file has, and its columns: none of a damaged one, for a store must open all the same."""
    try:
        found = pq.read_metadata(path)
        return int(found.num_rows), _typed(found.schema.to_arrow_schema())
    except (OSError, pa.ArrowException) as error:
        log.error("results: %s is damaged (%s); correlate --rebuild makes it again", path, error)
        return 0, ()


def _typed(found: pa.Schema) -> tuple[str, ...]:
    """Return the columns that have a type: one of NULLs alone may have none, and would be read as numbers."""
    return tuple(sorted(f.name for f in found if not pa.types.is_null(f.type)))


def _plain(rows: pa.Table) -> pa.Table:
    """Return rows with all dictionaries of one type, so that parts of different origin join."""
    for i, f in enumerate(rows.schema):
        if pa.types.is_dictionary(f.type) and f.type.index_type != pa.int32():
            rows = rows.set_column(i, f.name, pc.cast(rows[f.name], pa.dictionary(pa.int32(), pa.string())))
    return rows


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
