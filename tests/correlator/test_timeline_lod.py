"""Level of detail: whatever is drawn together, counts and busy time stay those of the bars, exactly."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import correlator
from correlator.timeline import timeline_wire

SQL = (Path(correlator.__file__).parent / "sql" / "timeline_lod.sql").read_text()
CONNECTION = duckdb.connect(config={"threads": 1})
ORIGIN = 1_700_000_000_000_000_000
OPEN = 2**63 - 1
TEXTS = ("node", "process_uid", "unit", "recording_uid", "subject")
Bar = tuple[int, int, int, int]
"""A bar: its row, start from the origin, length, and which of three names it has."""

bars = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 40_000),
        st.one_of(st.integers(0, 3), st.integers(0, 900), st.integers(0, 60_000), st.just(-1)),
        st.integers(0, 2),
    ),
    max_size=60,
)
windows = st.tuples(st.integers(0, 12), st.integers(0, 30_000), st.integers(1, 8))


def lod(rows: Sequence[Bar], since: int, until: int, bucket: int) -> pa.Table:
    """Return the rows of the view over a table of bars; a length of -1 is a bar that has not ended."""
    ends = [ORIGIN + start + lasted if lasted >= 0 else OPEN for _, start, lasted, _ in rows]
    table = pa.table(
        {
            "lane": ["kernel"] * len(rows),
            "number": pa.array([row for row, _, _, _ in rows], pa.int64()),
            "start_ns": pa.array([ORIGIN + start for _, start, _, _ in rows], pa.int64()),
            "end_ns": pa.array(ends, pa.int64()),
            "name": pa.array([f"kernel {name}" for _, _, _, name in rows], pa.string()),
            "class": pa.array(["gemm"] * len(rows), pa.string()),
            **{name: pa.nulls(len(rows), pa.string()) for name in TEXTS},
            **{name: pa.nulls(len(rows), pa.int64()) for name in ("rank", "depth", "step_ordinal")},
        }
    )
    CONNECTION.register("timeline_slice", table)
    asked = {"since_ns": ORIGIN + since, "until_ns": ORIGIN + until, "bucket_ns": bucket, "recording": "-"}
    return CONNECTION.sql(SQL, params={**asked, "processes": [], "subjects": [], "steps": []}).to_arrow_table()


def truth(rows: Sequence[Bar], since: int, until: int) -> dict[int, tuple[int, int]]:
    """Return count and busy time by row of the bars that overlap a window, worked out one bar at a time."""
    found: dict[int, tuple[int, int]] = {}
    for row, start, lasted, _ in rows:
        end = start + lasted if lasted >= 0 else 2**62
        overlaps = start < until and (end > since or (start == end and start >= since))
        if overlaps:
            count, busy = found.get(row, (0, 0))
            found[row] = (count + 1, busy + min(end, until) - max(start, since))
    return found


def totals(chunk: bytes) -> list[tuple[int, int]]:
    """Return count and busy time of each row as the chunk's head tells them."""
    _, _, rows, _, _, _ = struct.unpack_from("<6I", chunk)
    counts = np.frombuffer(chunk, "<u8", rows, 24 + 8 * rows)
    busy = np.frombuffer(chunk, "<u8", rows, 24 + 16 * rows)
    return sorted(zip(counts.tolist(), busy.tolist(), strict=True))


@given(bars, windows)
@settings(max_examples=120, deadline=None)
def test_counts_and_busy_time_of_a_window_are_those_of_its_bars(rows: list[Bar], window: tuple[int, int, int]) -> None:
    level, since, tiles = window
    until = since + (tiles * timeline_wire.TILE_BUCKETS << level)
    found = lod(rows, since, until, 1 << level)
    expected = truth(rows, since, until)
    assert sum(found["bars"].to_pylist()) == sum(count for count, _ in expected.values())
    assert sum(found["busy_ns"].to_pylist()) == sum(busy for _, busy in expected.values())
    assert totals(timeline_wire.encode(found, ORIGIN + since, level)) == sorted(expected.values())


@given(bars, windows)
@settings(max_examples=60, deadline=None)
def test_every_drawn_bar_lies_in_its_window_and_the_names_are_there(
    rows: list[Bar], window: tuple[int, int, int]
) -> None:
    level, since, tiles = window
    until = since + (tiles * timeline_wire.TILE_BUCKETS << level)
    chunk = timeline_wire.encode(lod(rows, since, until, 1 << level), ORIGIN + since, level)
    _, count, row_count, text, _, _ = struct.unpack_from("<6I", chunk)
    at = 24 + 24 * row_count + 4 * (row_count + 1)
    position = np.frombuffer(chunk, "<u2", count, at).astype(int)
    width = np.frombuffer(chunk, "<u2", count, at + 2 * count)
    name = np.frombuffer(chunk, "<u2", count, at + 4 * count)
    assert len(chunk) == at + 8 * count + text
    edge = timeline_wire.PARTS * timeline_wire.TILE_BUCKETS * tiles
    assert (position + width <= edge).all()
    names = chunk[len(chunk) - text :].decode()
    assert not len(name) or name.max() < names.count('"gemm"')


def test_a_bar_that_ends_where_the_window_begins_is_not_in_it() -> None:
    assert lod([(0, 100, 50, 0)], 150, 1000, 8).num_rows == 0
    assert lod([(0, 100, 51, 0)], 150, 1000, 8)["busy_ns"].to_pylist() == [1]


def test_an_instant_counts_once_and_lasts_nothing() -> None:
    found = lod([(0, 200, 0, 0)], 200, 1000, 8)
    assert found["bars"].to_pylist() == [1]
    assert found["busy_ns"].to_pylist() == [0]


def test_neighbours_of_one_name_and_density_are_drawn_as_one_and_still_counted() -> None:
    rows = [(0, 64 * at, 60, 1) for at in range(500)]
    chunk = timeline_wire.encode(lod(rows, 0, 512 * 64, 64), ORIGIN, 6)
    _, drawn, _, _, _, _ = struct.unpack_from("<6I", chunk)
    assert drawn == 1
    assert totals(chunk) == [(500, 30_000)]


def test_an_empty_window_is_a_chunk_without_bars() -> None:
    chunk = timeline_wire.encode(lod([], 0, 512, 1), ORIGIN, 0)
    assert struct.unpack_from("<6I", chunk)[:4] == (timeline_wire.MAGIC, 0, 0, 2)


@pytest.mark.parametrize("lasted", [1, 7, 8, 9])
def test_a_bar_of_a_bucket_or_more_is_drawn_by_itself(lasted: int) -> None:
    assert lod([(0, 3, lasted, 0)], 0, 512 * 8, 8)["whole"].to_pylist() == [lasted >= 8]
