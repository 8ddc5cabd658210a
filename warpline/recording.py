"""Takes a stretch of time out of a correlator as a sample trace: rows go to their files as they come.

A window may be more than this process, and the correlator, have memory for: rows come sorted stretch by stretch of time, and
what comes is written batch by batch. What is published, or carries pseudonyms, is changed on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from warpline import schema
from warpline.client import Client
from warpline.sample import HELD, Manifest, Writer
from warpline.schema import Table, Type

RECORDED = tuple(table for table in schema.TABLES if table not in schema.JOIN_TABLES)
"""What was seen. What the joins and the alert rules made of it is made again wherever it is replayed."""
_STRANGERS = {"connection": "connection_id", "process": "process_uid"}
"""Tables that tell of all that a node does, not only of what a sample trace is about, and by what others name their rows."""

Parts = Iterable[pa.Table]
Progress = Callable[[float], None]


def record(
    client: Client, directory: Path, since_ns: int, until_ns: int, about: str = "", public: bool = False
) -> Manifest:
    """Write what the correlator stored in [since_ns, until_ns) as a sample trace, `public` where others may see it.

    Raises StoreError where the correlator does not answer, SourceError where it stored nothing then.
    """
    found, writer = stored(client, since_ns, until_ns), Writer(directory)
    for table, parts in anonymous(found) if public else found:
        writer.add(table, parts)
    return writer.finish(about)


def stored(
    client: Client,
    since_ns: int,
    until_ns: int,
    holding: Collection[str] = HELD,
    progress: Progress = lambda share: None,
) -> Iterator[tuple[Table, Parts]]:
    """Yield each recorded table and what the correlator stored of it in [since_ns, until_ns), in the order of time.

    Who a process or a pod is was said when it began, and holds until something else is said: of the tables `holding` all
    that was said before is among it. `progress` is told the share of the tables that were read, and of time in that which
    is. Raises StoreError, while the rows are read too.
    """
    order = sorted(RECORDED, key=lambda table: [*_STRANGERS].index(table.name) if table.name in _STRANGERS else -1)
    for done, table in enumerate(order):
        since = None if table.name in holding else since_ns
        rows = client.rows(table.name, since_ns=since, until_ns=until_ns, order=table.time)

        def told(at_ns: int, done: int = done) -> None:
            within = min(max((at_ns - since_ns) / max(until_ns - since_ns, 1), 0.0), 1.0)
            progress((done + within) / len(order))

        yield table, _told(table, rows, told)
        progress((done + 1) / len(order))


def _told(table: Table, rows: Iterable[pa.RecordBatch], told: Callable[[int], None]) -> Iterator[pa.Table]:
    for batch in rows:
        if batch.num_rows:
            yield as_declared(table, pa.Table.from_batches([batch]))
            told(batch[table.time][-1].as_py())


def concerned(tables: Iterable[tuple[Table, Parts]], since_ns: int) -> Iterator[tuple[Table, Parts]]:
    """Yield tables; of processes, which come last, only those that were there since then, or that the others speak of.

    An engine may have begun months before; what ran on its node since is of no concern.
    """
    key = _STRANGERS["process"]
    named = {key: pa.array([], pa.string())}
    for table, parts in tables:
        yield table, (_since(parts, since_ns, named[key]) if table.name == "process" else _noted(parts, named))


def _noted(parts: Parts, named: dict[str, pa.Array]) -> Iterator[pa.Table]:
    for rows in parts:
        _note(rows, named)
        yield rows


def _since(parts: Parts, since_ns: int, named: pa.Array) -> Iterator[pa.Table]:
    for rows in parts:
        lately = pc.greater_equal(pc.coalesce(rows["end_ns"], rows["start_ns"]), since_ns)
        yield rows.filter(pc.or_(lately, pc.is_in(_texts(rows["process_uid"]), named)))


def anonymous(tables: Iterable[tuple[Table, Parts]]) -> Iterator[tuple[Table, Parts]]:
    """Yield tables fit to be published: of connections and processes, which come last, only those that the others speak of,
    and of a process no path, arguments or cgroup of the machine that it ran on."""
    named = {key: pa.array([], pa.string()) for key in _STRANGERS.values()}
    for table, parts in tables:
        yield table, _fit(table, parts, named)


def _fit(table: Table, parts: Parts, named: dict[str, pa.Array]) -> Iterator[pa.Table]:
    key = _STRANGERS.get(table.name, "")
    known = named.get(key)
    for rows in parts:
        _note(rows, named, key)
        kept = rows if known is None else rows.filter(pc.is_in(_texts(rows[key]), known))
        yield _without_paths(table, kept) if table.name == "process" else kept


def _note(rows: pa.Table, named: dict[str, pa.Array], but: str = "") -> None:
    """Add to what is `named` so far, by column, what rows name."""
    for other in named.keys() & set(rows.column_names) - {but}:
        named[other] = pa.concat_arrays([named[other], _texts(rows[other])]).unique().drop_null()


def _without_paths(table: Table, rows: pa.Table) -> pa.Table:
    base = pc.replace_substring_regex(_texts(rows["executable"]), ".*/", "")
    columns = {c: rows[c] for c in rows.column_names} | {"executable": base, "arguments": None, "cgroup_path": None}
    return pa.Table.from_batches([table.batch(columns, rows.num_rows)])


def _texts(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().cast(pa.string())


def as_declared(table: Table, rows: pa.Table) -> pa.Table:
    """Return rows as the query API gives them in the types of the declaration (trace ids come as texts)."""
    columns = {
        c.name: _trace_ids(rows[c.name]) if c.type is Type.TRACE_ID else rows[c.name]
        for c in table.columns
        if c.name in rows.column_names
    }
    return pa.Table.from_batches([table.batch(columns, rows.num_rows)])


def _trace_ids(texts: pa.ChunkedArray) -> pa.Array:
    """Return UUID texts as the 16 bytes that they stand for."""
    texts = texts.combine_chunks()
    plain = pc.replace_substring(pc.fill_null(texts, "0" * 32), "-", "")
    data = pa.py_buffer(bytes.fromhex("".join(plain.to_pylist())))
    storage = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(texts), [None, data])
    return pc.if_else(texts.is_valid(), storage, pa.scalar(None, pa.binary(16)))
