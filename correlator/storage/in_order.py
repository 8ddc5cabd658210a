"""Rows of a table in the order of time, however many they are: sorted stretch by stretch of time, in bounded memory.

DuckDB sorts what it is given in all the memory that it may use, and then on disk. Rows of different stretches of time need
no comparison, so each stretch is sorted by itself, when whoever reads has come to it: the first row comes soon, and a
window of 30 million rows takes what one of a million does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from warpline.schema import Table

Read = Callable[[str, Mapping[str, Any]], pa.RecordBatchReader]
"""Runs a query of the store, and gives its rows as they come."""

SHARE = 8
"""One such read may sort in this part of DuckDB's memory: ingest, joins and others who read need theirs."""
_VALUE_BYTES = 16
"""Memory that a value takes while it is sorted (measured: 15 bytes, over all columns of `syscall`)."""
_FEWEST = 262_144
"""Rows of a stretch at least: segments are read by half as many at once, and those at its ends are read twice."""
_PARTS = 256


def at_once(table: Table, memory_mb: int) -> int:
    """Return how many rows of `table` are sorted together where DuckDB may use `memory_mb`."""
    return fitting(table, (memory_mb << 20) // SHARE)


def fitting(table: Table, memory_bytes: int) -> int:
    """Return how many rows of `table` can be sorted in so much memory."""
    return max(memory_bytes // (_VALUE_BYTES * len(table.columns)), _FEWEST)


def rows(read: Read, table: Table, sql: str, bound: Mapping[str, Any], most: int) -> pa.RecordBatchReader:
    """Return what the query `sql` says of `table` in the order of time, about `most` rows of it sorted at once.

    Each stretch is read when it is come to: of rows that are stored meanwhile, those of later stretches are among them.
    """
    cuts = _cuts(read, table, sql, bound, most)
    first, *others = _stretches(table, sql, bound, cuts)
    begun = read(*first)
    # What `begun` holds open is let go with the last of its rows.
    rest = (batch for each in others for batch in read(*each))
    return pa.RecordBatchReader.from_batches(begun.schema, itertools.chain(begun, rest))


def _cuts(read: Read, table: Table, sql: str, bound: Mapping[str, Any], most: int) -> list[int]:
    """Return the moments at which time is cut, in their order, so that about `most` rows lie in each stretch."""
    count = read(f"SELECT count(*) AS n FROM ({sql})", bound).read_all()["n"][0].as_py()  # noqa: S608 (ours)
    if count <= most:
        return []
    shares = ", ".join(f"{part / _PARTS:.8f}" for part in range(1, _PARTS))
    asked = f'SELECT approx_quantile("{table.time}", [{shares}]) AS moments FROM ({sql})'  # noqa: S608 (ours)
    moments = read(asked, bound).read_all()["moments"][0].as_py() or []
    together = max(_PARTS * most // count, 1)
    return sorted(set(moments[together - 1 :: together]))


def _stretches(
    table: Table, sql: str, bound: Mapping[str, Any], cuts: list[int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the query of each stretch; the first and the last one are open, so that no row lies beside them."""
    for low, high in itertools.pairwise([None, *cuts, None]):
        within = {name: moment for name, moment in (("low_ns", low), ("high_ns", high)) if moment is not None}
        signs = {"low_ns": ">=", "high_ns": "<"}
        where = " AND ".join(f'"{table.time}" {signs[name]} ${name}' for name in within) or "true"
        yield f'FROM ({sql}) WHERE {where} ORDER BY "{table.time}"', {**bound, **within}
