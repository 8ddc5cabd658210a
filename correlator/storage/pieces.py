"""The rows of one table as they lie on disk, in pieces that each know their stretch of time; queries read those they need.

A query over one request's time that opens every file of the table pays 0.35 ms for each, whatever is in it: 87 ms with 10
million executions stored, 870 ms with 100 million. So a query says in a comment how far around its window it looks,

    -- within: share 5 s, launch 60 s

and reads those tables without the pieces that lie farther away: their names mean less than the tables' own views.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from warpline import schema
from warpline.schema import Column, Table

_WITHIN = re.compile(r"^-- within: *(.+)$", re.MULTILINE)
_EACH = re.compile(r"^([a-z_]+) (\d+) s$")
_HEAD = re.compile(r"(?:\s|--[^\n]*\n)*(WITH\b(?!\s+RECURSIVE\b))?")
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


@lru_cache(maxsize=1024)
def within(sql: str) -> dict[str, int]:
    """Return how far around `$since_ns` and `$until_ns` a query reads which tables, in ns, as its comment says.

    Raises ValueError where the comment is not of the form.
    """
    found: dict[str, int] = {}
    for line in _WITHIN.findall(sql):
        for each in line.split(","):
            match = _EACH.match(each.strip())
            if match is None:
                raise ValueError(f"'-- within: {line}': {each.strip()!r} is not of the form 'launch 60 s'")
            found[match[1]] = int(match[2]) * _S
    return found


def narrowed(sql: str, bound: Mapping[str, Any], stored: Mapping[str, Sequence[Piece]]) -> str:
    """Return the query with the tables that its comment names cut to the pieces near its window; `stored` has all pieces."""
    cut = []
    for name, margin_ns in within(sql).items():
        pieces = stored.get(name, ())
        since, until = (int(bound.get(each, ever)) for each, ever in (("since_ns", -_EVER_NS), ("until_ns", _EVER_NS)))
        chosen = near(pieces, since - margin_ns, until + margin_ns)
        if len(chosen) < len(pieces):
            cut.append(f"{name} AS NOT MATERIALIZED ({select(schema.table(name), chosen)})")
    if not cut:
        return sql
    head = _HEAD.match(sql)
    own = head.end() if head and head[1] else 0
    return f"WITH {', '.join(cut)}{',' if own else ''}\n{sql[own:]}"
