"""Sample traces: what was stored in a stretch of time, as one Parquet file per table and a manifest. Incident bundles have
this form too.

A sample trace goes in by the OTLP door like everything else, so that what is tested is what runs. Its batches are named for
its manifest's hash: replayed twice with the same times, it is stored once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warpline import __version__, schema
from warpline.batch import Batch
from warpline.errors import SchemaError, SourceError, plain
from warpline.importer import Door
from warpline.schema import Table
from warpline.settings import Settings

FORMAT = "warpline-sample-trace"
VERSION = 1
_BATCH_ROWS = 65536
_READ_ROWS = 16384
"""Rows that are read and sent at once: a body of OTLP holds so many of most tables, and to cut batches costs most of all."""
_CUT = 2
"""Part of each batch id: raised whenever batches are cut differently, so that old and new never mix."""
HELD = (*schema.HOLDING, "connection")
"""Tables of which all that was told before the time recorded is kept too: a connection holds like who and what there is."""
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
        if said["format"] != FORMAT or said["version"] > VERSION:
            raise SourceError(f"{path}: is {said['format']} version {said['version']}; this Warpline reads {VERSION}")
        if said["schema_version"] > schema.VERSION:
            raise SourceError(
                f"{path}: {said.get('made_by', 'it')} wrote schema version {said['schema_version']}, this Warpline knows"
                f" {schema.VERSION}; open it with a newer one"
            )
        known = {f.name for f in dataclasses.fields(Manifest)}
        made = Manifest(**{key: value for key, value in said.items() if key in known})
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = plain(error) if isinstance(error, OSError) else repr(error)
        raise SourceError(f"{path}: {what}; give the directory of a sample trace") from None
    return dataclasses.replace(made, uid=hashlib.sha256(text).hexdigest()[:16])


class Writer:
    """A sample trace that is being written, one table after the other: memory is that of a few batches."""

    def __init__(self, directory: Path) -> None:
        """Write to `directory`, whose name the trace gets."""
        self._directory = directory
        self.rows: dict[str, int] = {}
        self._bounds: dict[str, tuple[int, int]] = {}

    def add(self, table: Table, parts: Iterable[pa.Table]) -> None:
        """Write all rows of one table, which come in the order of time; a table without rows is left out.

        Raises SchemaError where rows are not as declared.
        """
        with ExitStack() as open_file:
            file: pq.ParquetWriter | None = None
            for part in parts:
                if not part.schema.equals(table.arrow):
                    raise SchemaError(
                        f"sample trace: rows of {table.name} are not as declared; pass them through as_declared"
                    )
                if not part.num_rows:
                    continue
                if file is None:
                    self._directory.mkdir(parents=True, exist_ok=True)
                    path = self._directory / f"{table.name}.parquet"
                    file = open_file.enter_context(pq.ParquetWriter(path, table.arrow, compression="zstd"))
                file.write_table(part, row_group_size=_BATCH_ROWS)
                self._count(table, part)

    def _count(self, table: Table, part: pa.Table) -> None:
        found = pc.min_max(part[table.time]).as_py()
        low, high = self._bounds.get(table.name, (found["min"], found["max"]))
        self._bounds[table.name] = min(low, found["min"]), max(high, found["max"])
        self.rows[table.name] = self.rows.get(table.name, 0) + part.num_rows

    def finish(self, about: str = "", expected: dict[str, dict[str, Any]] | None = None) -> Manifest:
        """Write the manifest and return it; raise SourceError where there is no row at all."""
        if not self.rows:
            raise SourceError(
                f"sample trace {self._directory}: there are no rows; give a stretch of time in which something was seen"
            )
        happened = [each for name, each in self._bounds.items() if name not in HELD] or [*self._bounds.values()]
        start_ns, end_ns = min(low for low, _ in happened), max(high for _, high in happened) + 1
        rows = dict(sorted(self.rows.items()))
        made = Manifest(self._directory.name, start_ns, end_ns, rows, about, expected or {})
        (self._directory / "manifest.json").write_text(made.as_json(), encoding="utf-8")
        return made


def write(
    directory: Path, tables: Mapping[str, pa.Table], about: str = "", expected: dict[str, dict[str, Any]] | None = None
) -> Manifest:
    """Write tables, as declared, as a sample trace named for `directory`; tables without rows are left out.

    Raises SchemaError where a table's rows are not as declared, SourceError where there is no row at all.
    """
    writer = Writer(directory)
    for name, rows in tables.items():
        table = schema.table(name)
        writer.add(table, [rows.sort_by(table.time) if table.time in rows.column_names else rows])
    return writer.finish(about, expected)


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


def _shifted(table: Table, rows: pa.RecordBatch, shift_ns: int) -> pa.RecordBatch:
    if not shift_ns:
        return rows
    columns = {name: rows[name] for name in rows.schema.names}
    for column in table.columns:
        if column.name in MOMENTS:
            columns[column.name] = pc.add(columns[column.name], shift_ns)
    return table.batch(columns, rows.num_rows)
