"""What alert rules read, made once for all of them: the rows of a stretch of time, beside the store, in memory.

Most of a rule's cost is DuckDB's: planning a query over the files of all days, and for `request` the join behind it. Rules
look back a bounded time, which their SQL says (`$now_ns - …`): so the rows of that time are copied into temporary tables of
one connection, where a temporary name hides the store's own, and the rules run there. Of a table that has too many rows then
the name stands for those rows where they are. A rule that looks back further than `FURTHEST_NS` is left to the store.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import duckdb
import pyarrow as pa

from correlator.storage import views
from correlator.storage.store import Store
from warpline import schema
from warpline.errors import StoreError

log = logging.getLogger(__name__)

Query = Callable[[str, Mapping[str, object]], pa.Table]

FURTHEST_NS = 7_200_000_000_000
_MARGIN_NS = 120_000_000_000
"""Time around the rules' own of which what views join is copied too: the engine's part of a request, its client's side."""
_MOST_ROWS = 2_000_000
"""Rows of one table beyond which they stay in the store: to copy them would cost more than to read them."""
_LOOKS_BACK = re.compile(r"\$now_ns - (\d[\d_]*)")
_ALL_COLUMNS = re.compile(r"(\bSELECT|,)\s*\*|\.\*|(^|\()\s*FROM\b|\bCOLUMNS\b|\bNATURAL\b", re.IGNORECASE)
"""What reads columns without naming them."""
_FROM = re.compile(r"\b(?:FROM|JOIN)\s+([a-z_]+(?:\s*,\s*[a-z_]+)*)")
_TABLES = {table.name: table for table in schema.TABLES}


@lru_cache(maxsize=1024)
def looks_back_ns(sql: str) -> int:
    """Return how far before `$now_ns` a rule's SQL looks."""
    return max((int(found.replace("_", "")) for found in _LOOKS_BACK.findall(sql)), default=0)


def fits(sql: str) -> bool:
    """Say whether a rule can run on a snapshot."""
    return 0 < looks_back_ns(sql) <= FURTHEST_NS


def _named(sql: str) -> set[str]:
    """Return the names behind FROM and JOIN. One that is missed is read from the store itself: slower, not wrong."""
    return {name.strip() for found in _FROM.findall(views.code(sql)) for name in found.split(",")}


def _words(sql: str) -> set[str]:
    """Return every word of `sql`, the columns that it reads among them; `*` where it reads some without naming them."""
    return set(views.words(sql)) | ({"*"} if _ALL_COLUMNS.search(views.code(sql).strip()) else set())


class Inputs:
    """Which tables and views a set of rules reads, and how to copy them."""

    def __init__(self, rules: Iterable[str]) -> None:
        """Read the SQL of the rules."""
        self._views = {name: view for name, view in views.load().items() if not view.parameters}
        self.tables: dict[str, int] = {}
        self.views: dict[str, int] = {}
        self._read_of: dict[str, set[str]] = defaultdict(set)
        """Words, columns among them, by which a table or view is read."""
        for sql in rules:
            if fits(sql):
                self._read(sql, looks_back_ns(sql))

    def _read(self, sql: str, reach_ns: int) -> None:
        """Note what `sql` names, and what the views among it name."""
        named, words = _named(sql), _words(sql)
        for name in named:
            self._read_of[name] |= words
        for name in named & _TABLES.keys():
            self.tables[name] = max(reach_ns, self.tables.get(name, 0))
        for name in named & self._views.keys():
            self.views[name] = max(reach_ns, self.views.get(name, 0))
            self._read(self._views[name].sql, reach_ns + _MARGIN_NS)

    def statements(self, since_ns: int, until_ns: int) -> Iterator[tuple[str, str, dict[str, int]]]:
        """Yield (name, SQL, bound) of each copy that rules need as of [since_ns, until_ns], in the order to make them."""
        for name, reach_ns in self.tables.items():
            column = _TABLES[name].time
            where, bound = f'"{column}" <= $until_ns', {"until_ns": until_ns + _MARGIN_NS}
            if name not in schema.HOLDING:  # What holds until something else is said is copied whole.
                where, bound = where + f' AND "{column}" > $since_ns', bound | {"since_ns": since_ns - reach_ns - 1}
            yield name, f"SELECT {self._columns(name)} FROM memory.main.{name} WHERE {where}", bound  # noqa: S608 (our words)
        for name, view in self._views.items():  # In the order in which they read each other.
            if name in self.views:
                yield name, f"SELECT {self._columns(name)} FROM (\n{view.sql}\n)", {}  # noqa: S608 (a file of ours)

    def _columns(self, name: str) -> str:
        """Return what to copy of a table or view: the columns that somebody reads; to make the others is half the cost."""
        words = self._read_of[name]
        return "*" if "*" in words else f"COLUMNS(lambda c: c IN {tuple(sorted(words))})"


@lru_cache(maxsize=32)
def inputs(rules: tuple[str, ...]) -> Inputs:
    """Return what the rules of these SQL texts read; rules that are due together are so again and again."""
    return Inputs(rules)


@contextmanager
def opened(store: Store, of: Inputs, since_ns: int, until_ns: int) -> Iterator[Query]:
    """Give a query function for rules that read `of`, and that are evaluated within [since_ns, until_ns] of node time.

    What cannot be copied is read from the store itself. A rule's own error is a StoreError.
    """
    token = store.readers.enter()
    cursor, beside = store.cursor(), store.cursor()

    def query(sql: str, bound: Mapping[str, object]) -> pa.Table:
        try:
            on = cursor if fits(sql) else beside
            return _answer(on.execute(_parsed(on, sql), dict(bound)))
        except duckdb.Error as error:
            raise StoreError(f"store: {str(error).strip()}") from None

    try:
        _copy(cursor, of, since_ns, until_ns)
        yield query
    finally:
        cursor.close()
        beside.close()
        store.readers.leave(token)


_statements: dict[str, duckdb.Statement] = {}
"""Rules that were parsed, by their text: as many as there are rules."""


def _parsed(cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """Return a rule's statement: a rule is parsed once, and evaluated again and again, on whichever connection."""
    if sql not in _statements:
        _statements[sql] = cursor.extract_statements(sql)[0]
    return _statements[sql]


def _answer(done: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return what a statement answered.

    A relation, which could give Arrow by itself, binds its query once to know its columns and once more to run it: of a
    rule, which answers a few rows, that is a third of all that it costs.
    """
    rows = done.fetchall()
    return pa.table({column[0]: [row[at] for row in rows] for at, column in enumerate(done.description)})


def _copy(cursor: duckdb.DuckDBPyConnection, of: Inputs, since_ns: int, until_ns: int) -> None:
    try:
        for name, sql, bound in of.statements(since_ns, until_ns):
            if name in of.views or _rows(cursor, sql, bound) <= _MOST_ROWS:
                cursor.execute(f"CREATE TEMP TABLE {name} AS {sql}", bound)
            else:  # Views that read it, which know no time, must not read all that was ever stored.
                cursor.execute(f"CREATE TEMP VIEW {name} AS {_spelled(sql, bound)}")
    except duckdb.Error as error:
        log.warning("alerts: rules are run on the store itself: %s", str(error).strip().splitlines()[0])


def _spelled(sql: str, bound: Mapping[str, int]) -> str:
    """Return a query with its numbers in it: a view cannot be bound."""
    for name, number in bound.items():
        sql = sql.replace(f"${name}", str(int(number)))
    return sql


def _rows(cursor: duckdb.DuckDBPyConnection, sql: str, bound: Mapping[str, int]) -> int:
    found = cursor.execute(f"SELECT count(*) FROM ({sql})", bound).fetchone()  # noqa: S608 (ours)
    return int(found[0]) if found else 0
