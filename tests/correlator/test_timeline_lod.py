"""Level of detail: whatever is drawn together, counts and busy time stay those of the bars, exactly."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import correlator
from correlator.timeline import (
    chunks,
    timeline_bars,
    timeline_draw,
    timeline_kept,
    timeline_levels,
    timeline_look,
    timeline_wire,
)
from correlator.timeline.timeline_bars import ScopeBars
from correlator.timeline.timeline_catalogue import Catalogue
from correlator.timeline.timeline_lod import Drawn
from correlator.timeline.timeline_preview import Preview
from correlator.timeline.timeline_scope import Scope

SQL = Path(correlator.__file__).parent / "sql"
CONNECTION = duckdb.connect(config={"threads": 1})
ORIGIN = 1_700_000_000_000_000_000
OPEN = 2**63 - 1
LENGTH = 110_000
TILE = timeline_wire.TILE_BUCKETS
HOW = ("kept", "levels", "stored")
TEXTS = ("node", "process_uid", "unit", "recording_uid", "subject")
Bar = tuple[int, int, int, int]
"""A bar: its row, start from the origin, length, and which of three names it has."""

near_an_edge = st.builds(
    lambda tile, before: max(tile * 512 - before, 0), st.sampled_from([1, 2, 8, 64]), st.integers(0, 40)
)

bars = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.one_of(st.integers(0, 2_000), st.integers(0, 40_000), near_an_edge),
        st.one_of(st.integers(0, 3), st.integers(0, 900), st.integers(0, 60_000), st.just(-1)),
        st.integers(0, 2),
    ),
    max_size=60,
)
windows = st.integers(0, 12).flatmap(
    lambda level: st.tuples(st.just(level), st.integers(0, (LENGTH >> level) // TILE), st.integers(1, 8))
)
"""Level, first tile and number of tiles."""


class Slices:
    """The real views over a table of bars in the place of all that can be one."""

    def __init__(self, rows: Sequence[Bar]) -> None:
        ends = [ORIGIN + start + lasted if lasted >= 0 else OPEN for _, start, lasted, _ in rows]
        self.table = pa.table(
            {
                "lane": ["kernel"] * len(rows),
                "number": pa.array([row for row, _, _, _ in rows], pa.int64()),
                "start_ns": pa.array([ORIGIN + start for _, start, _, _ in rows], pa.int64()),
                "end_ns": pa.array(ends, pa.int64()),
                "name": pa.array([f"kernel {name}" for _, _, _, name in rows], pa.string()),
                "class": pa.array(["gemm"] * len(rows), pa.string()),
                "simulated": pa.nulls(len(rows), pa.bool_()),
                **{name: pa.nulls(len(rows), pa.string()) for name in TEXTS},
                **{name: pa.nulls(len(rows), pa.int64()) for name in ("rank", "depth", "step_ordinal")},
            }
        )

    def view(self, name: str, parameters: Mapping[str, Any]) -> pa.Table:
        CONNECTION.register("timeline_slice", self.table)
        return CONNECTION.sql((SQL / f"{name}.sql").read_text(), params=dict(parameters)).to_arrow_table()


def loaded(rows: Sequence[Bar], how: str, finest: int = 5) -> ScopeBars:
    """Return a scope's bars kept, kept with coarser levels, or in the store with levels from `finest` on kept."""
    scope = Scope(ORIGIN, ORIGIN + LENGTH)
    slices = Slices(rows)
    catalogue = Catalogue(slices.view("timeline_kind", scope.parameters()))
    bars = timeline_bars.load(catalogue, slices, scope, 0 if how == "stored" else 1 << 30)
    if how == "stored":
        with mock.patch.object(timeline_bars, "_finest_level", return_value=finest):
            bars.drawn(0, 0, TILE)
    if how == "levels":
        # Few bars as they are, they get every level that there can be.
        with (
            mock.patch.object(timeline_kept, "_LEVELS_FROM", 1),
            mock.patch.multiple(timeline_levels, _SHRINKS=1, _WIDEST_BITS=1),
            mock.patch.object(timeline_kept, "_lowest_level", return_value=1),
        ):
            bars.drawn(0, 0, TILE)
    return bars


@contextmanager
def drawing(built: bool) -> Iterator[None]:
    """Draw by draw.c where it is built, or by numpy, as where it is not."""
    with mock.patch.object(timeline_draw, "library", timeline_draw.library if built else None):
        yield


def in_order(drawn: Drawn) -> list[list[int]]:
    """Return what is drawn by row, start, length and label: of what starts at one moment, no order is promised."""
    order = np.lexsort((drawn.label, drawn.longest, drawn.start, drawn.row))
    return [getattr(drawn, name)[order].tolist() for name in Drawn.__dataclass_fields__]


def truth(rows: Sequence[Bar], since: int, until: int) -> dict[int, tuple[int, int]]:
    """Return count and busy time by row of the bars that overlap a window, worked out one bar at a time."""
    found: dict[int, tuple[int, int]] = {}
    for row, start, lasted, _ in rows:
        end = start + lasted if lasted >= 0 else LENGTH
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


def wide(chunk: bytes, count: int, at: int) -> np.ndarray:
    """Return numbers of 16 bits that lie as low bytes and then high ones."""
    low, high = np.frombuffer(chunk, np.uint8, 2 * count, at).reshape(2, count).astype(np.uint16)
    return low | high << 8


@given(bars, windows, st.sampled_from(HOW), st.booleans())
@example([(0, 32_755, 30, 0), (0, 32_760, 20, 1), (0, 32_700, 100, 0)], (6, 0, 1), "levels", True)
@settings(max_examples=160, deadline=None)
def test_counts_and_busy_time_of_a_window_are_those_of_its_bars(
    rows: list[Bar], window: tuple[int, int, int], how: str, built: bool
) -> None:
    level, first, tiles = window
    since, until = first * TILE << level, (first + tiles) * TILE << level
    expected = truth(rows, since, min(until, LENGTH))
    with drawing(built):
        found = loaded(rows, how)
        assert totals(chunks.chunk(found, level, first, tiles)) == sorted(expected.values())
        drawn = found.drawn(level, since, until)
    assert int(drawn.count.sum()) == sum(count for count, _ in expected.values())
    assert int(drawn.busy.sum()) == sum(busy for _, busy in expected.values())


@given(bars, windows)
@settings(max_examples=40, deadline=None)
def test_a_chunk_is_the_same_bytes_with_coarser_levels_and_without(
    rows: list[Bar], window: tuple[int, int, int]
) -> None:
    kept = chunks.chunk(loaded(rows, "kept"), *window)
    assert chunks.chunk(loaded(rows, "levels"), *window) == kept


@pytest.mark.skipif(timeline_draw.library is None, reason="draw.c is not built here")
@given(bars, windows, st.sampled_from(HOW))
@settings(max_examples=60, deadline=None)
def test_the_pass_in_c_draws_what_numpy_draws(rows: list[Bar], window: tuple[int, int, int], how: str) -> None:
    level, first, tiles = window
    found = []
    for built in (True, False):
        with drawing(built):
            found.append(loaded(rows, how).drawn(level, first * TILE << level, (first + tiles) * TILE << level))
    assert in_order(found[0]) == in_order(found[1])


@pytest.mark.skipif(timeline_draw.library is None, reason="draw.c is not built here")
@given(bars, st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_what_is_drawn_while_bars_are_read_is_exact_once_all_are(rows: list[Bar], level: int) -> None:
    scope, slices = Scope(ORIGIN, ORIGIN + LENGTH), Slices(rows)
    catalogue = Catalogue(slices.view("timeline_kind", scope.parameters()))
    early = Preview(catalogue, LENGTH)
    timeline_bars.load(catalogue, slices, scope, 1 << 30, early)
    chunk = chunks.preview(early, catalogue, level)
    assert totals(chunk) == sorted(truth(rows, 0, LENGTH).values())
    assert early.share == (1 if rows else 0)
    assert struct.unpack_from("<6I", chunk)[5] == (1001 if rows else 1)


@given(bars, windows, st.sampled_from(HOW))
@settings(max_examples=40, deadline=None)
def test_every_drawn_bar_lies_in_its_window_and_the_names_are_there(
    rows: list[Bar], window: tuple[int, int, int], how: str
) -> None:
    chunk = chunks.chunk(loaded(rows, how), *window)
    _, count, row_count, text, _, _ = struct.unpack_from("<6I", chunk)
    at = 24 + 24 * row_count + 4 * (row_count + 1)
    position = np.cumsum(wide(chunk, count, at), dtype=np.uint16).astype(int)
    width, name = wide(chunk, count, at + 2 * count), wide(chunk, count, at + 4 * count)
    assert len(chunk) == at + 8 * count + text
    edge = timeline_wire.PARTS * timeline_wire.TILE_BUCKETS * window[2]
    assert (position + width <= edge).all()
    names = chunk[len(chunk) - text :].decode()
    assert not len(name) or name.max() < names.count('"gemm"')


@pytest.mark.parametrize("how", HOW)
def test_neighbours_of_one_name_and_density_are_drawn_as_one_and_still_counted(how: str) -> None:
    chunk = chunks.chunk(loaded([(0, 64 * at, 60, 1) for at in range(500)], how), 6, 0, 1)
    _, drawn, _, _, _, _ = struct.unpack_from("<6I", chunk)
    assert drawn == 1
    assert totals(chunk) == [(500, 30_000)]


@pytest.mark.parametrize("how", HOW)
def test_a_window_without_bars_is_a_chunk_without_any(how: str) -> None:
    for rows in ([], [(0, 50_000, 10, 0)]):
        assert struct.unpack_from("<6I", chunks.chunk(loaded(rows, how), 0, 0, 1))[:4] == (timeline_wire.MAGIC, 0, 0, 2)


@pytest.mark.parametrize("lasted", [1, 7, 8, 9])
def test_a_bar_of_a_bucket_or_more_is_drawn_by_itself(lasted: int) -> None:
    chunk = chunks.chunk(loaded([(0, 3, lasted, 0)], "kept"), 3, 0, 1)
    assert (chunk[24 + 24 + 8 + 7] == 0) is (lasted >= 8)


@given(bars, st.integers(0, 80_000), st.integers(0, 90))
@settings(max_examples=40, deadline=None)
def test_the_bar_at_a_moment_is_the_shortest_that_holds_it(rows: list[Bar], at: int, slack: int) -> None:
    found = loaded(rows, "kept")
    for code, row_id in enumerate(found.catalogue.row_ids.tolist()):
        seen = timeline_look.nearest(found, row_id, at, slack)
        if seen is None:
            continue
        number = found.catalogue.kinds["number"][
            found.catalogue.kinds["row_id"].to_numpy().tolist().index(row_id)
        ].as_py()
        holding = [lasted for row, start, lasted, _ in rows if row == number and start <= at < start + lasted]
        assert found.catalogue.code(row_id) == code
        if holding:
            assert seen["end_ns"] - seen["start_ns"] == min(holding)
        else:
            assert seen["start_ns"] <= at + slack
            assert seen["end_ns"] >= at - slack
