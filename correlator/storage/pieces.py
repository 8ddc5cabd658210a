"""The rows of one table as they lie on disk, in pieces that each know their stretch of time; queries read those they need.

A query over one request's time that opens every file of the table pays 0.35 ms for each, whatever is in it: 87 ms with 10
million executions stored, 870 ms with 100 million. So a query says in a comment how far around its window it looks,

    -- within: share 5 s, launch 60 s

and reads those tables without the pieces that lie farther away: their names mean less than the tables' own views. `0..60 s`
looks ahead only. It may name a view, too, that says what its rows are made of,

    -- parts: http_exchange 600 s, alias 60 s

around their own times: the view is then made of those parts near the window alone, by time and not by file only, where else
it would be made of all that was ever stored before a row of it could be found. A query that knows its window well says with
`-- parts:` itself how near of them it needs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from correlator.storage.views import words
from warpline import schema
from warpline.schema import Column, Table

_SAID = re.compile(r"^-- (within|parts): *(.+)$", re.MULTILINE)
_EACH = re.compile(r"^([a-z_]+) (?:(\d+)\.\.)?(\d+) s$")
_HEAD = re.compile(r"(?:\s|--[^\n]*\n)*(WITH\b(\s+RECURSIVE\b)?)?")
_S = 1_000_000_000
_EVER_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a table, with times in [low_ns, high_ns]: a Parquet file, or a day's own table in DuckDB."""

    source: str
    """The file's path in quotes, or the table's name."""
    columns: tuple[str, ...]
    low_ns: int
    high_ns: int
    is_file: bool = True


def near(pieces: Iterable[Piece], low_ns: int, high_ns: int) -> list[Piece]:
    """Return the pieces that may have rows with times in [low_ns, high_ns]."""
    return [piece for piece in pieces if piece.low_ns <= high_ns and low_ns <= piece.high_ns]


def select(table: Table, pieces: Sequence[Piece]) -> str:
    """Return the query that gives all rows of `pieces`, with all columns of `table` in order."""
    queries = [f"SELECT {_columns(table, p.columns)} FROM {p.source}" for p in pieces if not p.is_file]  # noqa: S608 (ours)
    files: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for piece in pieces:
        if piece.is_file:
            files[piece.columns].append(piece.source)
    for columns, paths in files.items():
        queries.append(f"SELECT {_columns(table, columns)} FROM read_parquet([{', '.join(paths)}])")  # noqa: S608 (ours)
    return "\nUNION ALL ".join(queries) or f"SELECT {_columns(table, ())} WHERE false"


def shown_type(column: Column) -> str:
    """Return a column's type in its view: JSON is shown as text, so that one malformed text spoils no query."""
    return "VARCHAR" if column.type.sql == "JSON" else column.type.sql


def _columns(table: Table, present: Sequence[str]) -> str:
    """Return a SELECT list of all columns of `table`: those that are not `present` are NULL of their type."""
    return ", ".join(
        f'"{c.name}"::{shown_type(c)} AS "{c.name}"' if c.name in present else f'NULL::{shown_type(c)} AS "{c.name}"'
        for c in table.columns
    )


Margins = dict[str, tuple[int, int]]
"""By table or view: how far before and after a window, in ns."""


@lru_cache(maxsize=1024)
def within(sql: str, word: str = "within") -> Margins:
    """Return how far around `$since_ns` and `$until_ns` a query reads which tables and views, as its comment says.

    Raises ValueError where the comment is not of the form.
    """
    found: Margins = {}
    for line in (each[2] for each in _SAID.finditer(sql) if each[1] == word):
        for each in line.split(","):
            match = _EACH.match(each.strip())
            if match is None:
                raise ValueError(
                    f"'-- {word}: {line}': {each.strip()!r} is not of the form 'launch 60 s' or 'launch 0..60 s'"
                )
            found[match[1]] = int(match[2] or match[3]) * _S, int(match[3]) * _S
    return found


def narrowed(
    sql: str, bound: Mapping[str, Any], stored: Mapping[str, Sequence[Piece]], views: Mapping[str, str] | None = None
) -> str:
    """Return the query with the tables and views that its comment names cut to what is near its window.

    `stored` has all pieces of each table, `views` the SQL of each view that has no parameters, after those that it reads.
    """
    window = tuple(int(bound.get(each, ever)) for each, ever in (("since_ns", -_EVER_NS), ("until_ns", _EVER_NS)))
    cut, nearer = [], within(sql, "parts")
    for name, (before, after) in within(sql).items():
        low, high = window[0] - before, window[1] + after
        if views and name in views:
            if high - low < _EVER_NS:
                cut.append(f"{name} AS NOT MATERIALIZED ({_remade(name, low, high, stored, views, nearer)})")
            continue
        pieces = stored.get(name, ())
        chosen = near(pieces, low, high)
        if len(chosen) < len(pieces):
            cut.append(f"{name} AS NOT MATERIALIZED ({select(schema.table(name), chosen)})")
    if not cut:
        return sql
    head = _HEAD.match(sql)
    own, recursive = (head.end(), head[2] or "") if head and head[1] else (0, "")
    return f"WITH{recursive} {', '.join(cut)}{',' if own else ''}\n{sql[own:]}"


def _remade(
    name: str,
    low: int,
    high: int,
    stored: Mapping[str, Sequence[Piece]],
    views: Mapping[str, str],
    nearer: Margins,
) -> str:
    """Return the SQL of view `name` over its parts near [low, high], and over the views that are made of them.

    `nearer` says of some parts how near, in the place of what the view says.
    """
    made, parts = [], {**within(views[name], "parts"), **nearer}
    for part, (before, after) in parts.items():
        table, since, until = schema.table(part), low - before, high + after
        rows = select(table, near(stored.get(part, ()), since, until))
        made.append(
            f'{part} AS NOT MATERIALIZED (SELECT * FROM ({rows}) WHERE "{table.time}" BETWEEN {since} AND {until})'  # noqa: S608
        )
    there, read = set(parts), _read_by(name, views)
    for other, sql in views.items():
        if other in read and not there.isdisjoint(words(sql)):
            there.add(other)
            made.append(f"{other} AS NOT MATERIALIZED (SELECT * FROM (\n{sql}\n))")  # noqa: S608 (views of ours)
    return f"WITH {', '.join(made)} SELECT * FROM (\n{views[name]}\n)"  # noqa: S608 (views of ours)


def _read_by(name: str, views: Mapping[str, str]) -> set[str]:
    """Return the views that view `name` reads, and those that they read."""
    found: set[str] = set()
    new = {name}
    while new:
        new = {each for one in new for each in words(views[one]) & views.keys()} - found - {name}
        found |= new
    return found
