"""Parquet segments: where rows that come by the ten thousand are kept.

Writing 20 columns of `gpu_kernel` costs DuckDB's own tables about 930 ns a row, and 110 ns as Parquet with delta-encoded
integers and dictionary-encoded names (measured, one core; 7.7 against 6.5 bytes a row); a span, with its texts, 7 µs and
0.9. So a write of many rows becomes a segment beside its day's file, and that file lists it in the same transaction as the
batch ids: a segment that is not listed does not exist. Its own metadata repeats the batch ids, so that a lost day file can
be made anew.

Parquet's checksums are of single pages: they say nothing of the footer, whose statistics say which rows a read may pass
over; and DuckDB, which merges segments, writes none, and reads none (measured: of 60 flipped bytes among the pages of files
with and without, it read 31 and 21 as other values without a word). So the line of a segment has two sums of it: of its
footer, looked at whenever the day is opened, and of the whole file, looked at before it is merged and once a day. Pages have
none beside that: either costs 25 to 30 of the 230 ns that a span takes here.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warpline.errors import StoreError
from warpline.schema import Table, Type
from warpline.spool import sync_directory

ROWS = 8192
"""From so many rows of one table and day on, a write becomes a segment.

8,000 spans cost a write 57 ms in the day's own table, most of it at COMMIT, and 16 ms as a segment. Fewer rows to a segment
cost the readers: each file that upkeep has not merged yet costs a query that passes over all of them 0.4 ms.
"""

_ROW_GROUP = 131072
_LZ4 = pa.Codec("lz4_raw")
_SAMPLE_BYTES, _WORTH_IT = 16384, 0.7
_BATCHES, _TABLE = "warpline.batches", "warpline.table"
_PIECE = 1 << 20
_END = 8
"""Bytes at the end of a Parquet file: the length of its footer, and PAR1."""
_GONE = (errno.ENOENT, errno.EIO)
"""Errors that speak of this file; too many open files, say, does not."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One Parquet file of one table and day. `merged` counts how often its rows were merged.

    The CRC-32s are those of the footer with what stands behind it and of the whole file; None where nobody noted them.
    """

    name: str
    table: str
    rows: int
    bytes: int
    low_ns: int
    high_ns: int
    columns: tuple[str, ...]
    merged: int = 0
    footer_crc32: int | None = None
    file_crc32: int | None = None


def write(directory: Path, name: str, table: Table, rows: pa.Table, batch_ids: Sequence[str]) -> Segment:
    """Write rows as the segment `name` and return it once it is on disk; raises OSError where the disk does."""
    directory.mkdir(parents=True, exist_ok=True)
    kept = [column for column in table.columns if rows[column.name].null_count < rows.num_rows]
    rows = rows.select([column.name for column in kept]).unify_dictionaries()
    rows = pa.Table.from_arrays(rows.columns, schema=_layout(rows, notes(table, batch_ids)))
    path = directory / name
    pq.write_table(
        rows,
        path,
        row_group_size=_ROW_GROUP,
        compression={c.name: _codec(rows[c.name]) for c in kept},
        data_page_version="2.0",
        use_dictionary=[c.name for c in kept if pa.types.is_dictionary(c.type.arrow)],
        column_encoding={c.name: "DELTA_BINARY_PACKED" for c in kept if c.type is Type.INT},
        write_statistics=[c.name for c in kept if c.type is Type.INT],
    )
    sync_file(path)
    sync_directory(directory)
    times = pc.min_max(rows[table.time])
    low, high = times["min"].as_py(), times["max"].as_py()
    columns = tuple(rows.column_names)
    return summed(Segment(name, table.name, rows.num_rows, path.stat().st_size, low, high, columns), path)


def _layout(rows: pa.Table, said: dict[str, str]) -> pa.Schema:
    """Return the schema of rows; a column without a NULL says so, and Parquet keeps no word of each value's presence."""
    return pa.schema([field.with_nullable(rows[field.name].null_count > 0) for field in rows.schema], metadata=said)


def _codec(column: pa.ChunkedArray) -> str:
    """Return how a column is compressed: a text that a sample shows to gain little by it, an id mostly, is not.

    Compressing such ids takes 40 ns each and saves 10 bytes of 45, until the segment is merged and sorted.
    """
    if not pa.types.is_string(column.type):
        return "lz4"
    texts = next((text for chunk in column.chunks if (text := chunk.buffers()[2])), None)
    if texts is None:
        return "lz4"
    sample = texts[:_SAMPLE_BYTES]
    return "lz4" if _LZ4.compress(sample).size < _WORTH_IT * sample.size else "none"


def notes(table: Table, batch_ids: Sequence[str]) -> dict[str, str]:
    """Return what a segment's own metadata says of it."""
    return {_TABLE: table.name, _BATCHES: json.dumps(list(batch_ids))}


def describe(path: Path, time_column: str, merged: int = 0) -> tuple[Segment, list[str]]:
    """Return the segment that a file holds, from its own metadata, and the ids of its batches.

    Raises StoreError where the file is damaged.
    """
    try:
        found = pq.read_metadata(path)
        said = found.metadata or {}
        times = _times(found, time_column)
        table = said[_TABLE.encode()].decode()
        batch_ids = [str(each) for each in json.loads(said[_BATCHES.encode()])]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise StoreError(f"segment {path}: {error}") from None
    columns = tuple(found.schema.to_arrow_schema().names)
    size = path.stat().st_size
    return Segment(path.name, table, found.num_rows, size, *times, columns, merged), batch_ids


def summed(segment: Segment, path: Path) -> Segment:
    """Return the segment with the checksums that its file has now; raises OSError where it cannot be read."""
    return replace(segment, footer_crc32=_footer_crc32(path), file_crc32=_file_crc32(path))


def _footer_crc32(path: Path) -> int:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _END, 0))
        length = int.from_bytes(file.read(_END)[:4], "little")
        file.seek(max(size - _END - length, 0))
        return zlib.crc32(file.read())


def _file_crc32(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found = zlib.crc32(piece, found)
    return found


def table_of(path: Path) -> str:
    """Return the name of the table that a segment's file name begins with."""
    return path.name.split("-", 1)[0]


def look(path: Path, segment: Segment) -> str | None:
    """Read the end of a segment that says where its rows lie; return what is wrong with it, or None."""
    try:
        size = path.stat().st_size
        if size != segment.bytes:
            return f"it has {size} bytes in place of {segment.bytes}"
        if segment.footer_crc32 not in (None, _footer_crc32(path)):
            return "its footer has another checksum than when it was written"
    except OSError as error:
        return str(error) if error.errno in _GONE else None
    return None


def verify(path: Path, segment: Segment) -> str | None:
    """Read all of a segment; return what is wrong with it, or None.

    One whose checksums nobody noted, an older Warpline's, is decoded, with the checksums of its pages where it has any.
    """
    problem = look(path, segment)
    if problem is not None:
        return problem
    try:
        if segment.file_crc32 is not None:
            same = segment.file_crc32 == _file_crc32(path)
            return None if same else "it has another checksum than when it was written"
        file = pq.ParquetFile(path, page_checksum_verification=True)
        for _ in file.iter_batches():
            pass
    except pa.ArrowException as error:
        return str(error)
    except OSError as error:
        return str(error) if error.errno in (None, *_GONE) else None
    return None


def remove(paths: Iterable[Path]) -> None:
    """Delete files that may be gone already."""
    for path in paths:
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _times(found: pq.FileMetaData, time_column: str) -> tuple[int, int]:
    index = found.schema.to_arrow_schema().names.index(time_column)
    parts = [found.row_group(n).column(index).statistics for n in range(found.num_row_groups)]
    return min(part.min for part in parts), max(part.max for part in parts)
