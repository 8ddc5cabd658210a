"""Sample traces: what was stored in a stretch of time, as one Parquet file per table and a manifest. Incident bundles have
this form too.

A sample trace goes in by the OTLP door like everything else, so that what is tested is what runs. Its batches are named for
its manifest's hash: replayed twice with the same times, it is stored once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warpline import __version__, schema
from warpline.batch import Batch
from warpline.client import Client
from warpline.errors import SchemaError, SourceError
from warpline.importer import Door
from warpline.schema import Table, Type
from warpline.settings import Settings

FORMAT = "warpline-sample-trace"
VERSION = 1
_BATCH_ROWS = 65536
_READ_ROWS = 16384
"""Rows that are read and sent at once: a body of OTLP holds so many of most tables, and to cut batches costs most of all."""
_CUT = 2
"""Part of each batch id: raised whenever batches are cut differently, so that old and new never mix."""
_HOLDING = ("node", "process", "pod", "gpu", "connection")
RECORDED = tuple(table for table in schema.TABLES if table not in schema.JOIN_TABLES)
"""What was seen. What the joins and the alert rules made of it is made again wherever it is replayed."""
MOMENTS = frozenset(
    {
        "start_ns",
        "end_ns",
        "time_ns",
        "request_end_ns",
        "response_start_ns",
        "first_body_ns",
        "last_chunk_ns",
        "start_ns_of_series",
        "start_ns_of_sum",
        "observed_ns",
        "engine_time_ns",
        "queued_ns",
        "anchor_ns",
        "realtime_ns",
        "tai_ns",
        "created_ns",
    }
)
"""Columns that move with node time: moments of it, and the clocks that it is converted to. All others last or count."""


@dataclass(frozen=True)
class Manifest:
    """What a sample trace holds: rows by table, the stretch of node time [start_ns, end_ns), and whence it is."""

    name: str
    start_ns: int
    end_ns: int
    rows: dict[str, int]
    about: str = ""
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Views whose rows are kept beside it as golden rows, with the parameters that they are asked with."""
    uid: str = ""

    def as_json(self) -> str:
        """Return the manifest as the file holds it."""
        said = {k: v for k, v in dataclasses.asdict(self).items() if k != "uid"}
        head = {
            "format": FORMAT,
            "version": VERSION,
            "schema_version": schema.VERSION,
            "made_by": f"warpline {__version__}",
        }
        return json.dumps(head | said, indent=2) + "\n"


def load(directory: Path) -> Manifest:
    """Return a sample trace's manifest; raise SourceError where there is none, or one of a newer form."""
    path = directory / "manifest.json"
    try:
        text = path.read_bytes()
        said = json.loads(text)
        if said["format"] != FORMAT or said["version"] > VERSION or said["schema_version"] > schema.VERSION:
            raise SourceError(f"{path}: is {said['format']} version {said['version']}; this Warpline reads {VERSION}")
        known = {f.name for f in dataclasses.fields(Manifest)}
        made = Manifest(**{key: value for key, value in said.items() if key in known})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: {error!r}; give the directory of a sample trace") from None
    return dataclasses.replace(made, uid=hashlib.sha256(text).hexdigest()[:16])


def write(
    directory: Path, tables: Mapping[str, pa.Table], about: str = "", expected: dict[str, dict[str, Any]] | None = None
) -> Manifest:
    """Write tables, as declared, as a sample trace named for `directory`; tables without rows are left out.

    Raises SchemaError where a table's rows are not as declared, SourceError where there is no row at all.
    """
    filled = {name: _sorted(schema.table(name), rows) for name, rows in tables.items() if rows.num_rows}
    if not filled:
        raise SourceError(
            f"sample trace {directory}: there are no rows; give a stretch of time in which something was seen"
        )
    directory.mkdir(parents=True, exist_ok=True)
    happened = {name: rows for name, rows in filled.items() if name not in _HOLDING} or filled
    bounds = [pc.min_max(rows[schema.table(name).time]).as_py() for name, rows in happened.items()]
    for name, rows in filled.items():
        pq.write_table(rows, directory / f"{name}.parquet", compression="zstd", row_group_size=_BATCH_ROWS)
    made = Manifest(
        directory.name,
        min(each["min"] for each in bounds),
        max(each["max"] for each in bounds) + 1,
        {name: filled[name].num_rows for name in sorted(filled)},
        about,
        expected or {},
    )
    (directory / "manifest.json").write_text(made.as_json(), encoding="utf-8")
    return made


def record(
    client: Client, directory: Path, since_ns: int, until_ns: int, about: str = "", public: bool = False
) -> Manifest:
    """Write what the correlator stored in [since_ns, until_ns) as a sample trace, `public` where others may see it.

    Raises StoreError where the correlator does not answer, SourceError where it stored nothing then.
    """
    tables = dict(stored(client, since_ns, until_ns))
    return write(directory, anonymous(tables) if public else tables, about)


def stored(
    client: Client, since_ns: int, until_ns: int, holding: Collection[str] = _HOLDING, earlier_ns: int | None = None
) -> Iterator[tuple[str, pa.Table]]:
    """Yield each recorded table's name and what the correlator stored of it in [since_ns, until_ns).

    Who a process or a pod is was said when it began, and holds until something else is said: of the tables `holding` what
    was said `earlier_ns` before is among it, all of it where that is None. Raises StoreError.
    """
    for table in RECORDED:
        before = None if earlier_ns is None else since_ns - earlier_ns
        rows = client.table(table.name, since_ns=before if table.name in holding else since_ns, until_ns=until_ns)
        yield table.name, as_declared(table, rows)


def anonymous(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Return tables fit to be published: of processes and connections only those that the others speak of, and of a process
    no path, arguments or cgroup of the machine that it ran on."""
    kept = dict(tables)
    for name, key in _STRANGERS.items():
        if name in kept:
            named = [_texts(rows[key]) for other, rows in tables.items() if other != name and key in rows.column_names]
            known = pa.concat_arrays(named or [pa.array([], pa.string())]).unique().drop_null()
            kept[name] = kept[name].filter(pc.is_in(_texts(kept[name][key]), known))
    if "process" in kept:
        table, rows = schema.table("process"), kept["process"]
        base = pc.replace_substring_regex(_texts(rows["executable"]), ".*/", "")
        columns = {c: rows[c] for c in rows.column_names} | {"executable": base, "arguments": None, "cgroup_path": None}
        kept["process"] = pa.Table.from_batches([table.batch(columns, rows.num_rows)])
    return kept


_STRANGERS = {"connection": "connection_id", "process": "process_uid"}
"""Tables that tell of all that a node does, not only of what a sample trace is about, and by what others name their rows."""


def _texts(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().cast(pa.string())


def batches(directory: Path, found: Manifest, shift_ns: int = 0) -> Iterator[Batch]:
    """Yield the rows of a sample trace, their times moved by `shift_ns`, table by table; raise SourceError where a file is
    missing or damaged."""
    for name in found.rows:
        yield from rows_of(directory, name, shift_ns)


def rows_of(directory: Path, name: str, shift_ns: int = 0) -> Iterator[Batch]:
    """Yield the rows of one table of a sample trace in the order of time; raise SourceError where its file is damaged."""
    path = directory / f"{name}.parquet"
    try:
        table = schema.table(name)
        # Read ahead, Arrow would hold the whole file; a few columns of one row group are enough.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            for part in file.iter_batches(_READ_ROWS):
                columns = {c: part[c] for c in part.schema.names if c in table.by_name}
                yield Batch(table, _shifted(table, table.batch(columns, part.num_rows), shift_ns))
    except (OSError, pa.ArrowException, SchemaError) as error:
        raise SourceError(f"{path}: {error}; the sample trace is not whole") from None


def replay(
    settings: Settings, directory: Path, now_ns: int | None = None, progress: Callable[[float], None] | None = None
) -> Manifest:
    """Send a sample trace through the OTLP door; `now_ns` moves it in time so that it ends then.

    Returns its manifest. Raises SourceError where it is not whole, StoreError where the door does not take it.
    """
    found = load(directory)
    shift_ns = 0 if now_ns is None else now_ns - found.end_ns
    total, sent = sum(found.rows.values()), 0
    door = Door(settings, settings.node or "replay")
    door.name_for(f"{found.uid}/{_CUT}+{shift_ns}")
    for batch in batches(directory, found, shift_ns):
        door.send(batch)
        sent += batch.rows.num_rows
        if progress is not None:
            progress(sent / total)
    door.flush()
    return found


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


def _sorted(table: Table, rows: pa.Table) -> pa.Table:
    if not rows.schema.equals(table.arrow):
        raise SchemaError(f"sample trace: rows of {table.name} are not as declared; pass them through as_declared")
    return rows.sort_by(table.time)


def _shifted(table: Table, rows: pa.RecordBatch, shift_ns: int) -> pa.RecordBatch:
    if not shift_ns:
        return rows
    columns = {name: rows[name] for name in rows.schema.names}
    for column in table.columns:
        if column.name in MOMENTS:
            columns[column.name] = pc.add(columns[column.name], shift_ns)
    return table.batch(columns, rows.num_rows)
