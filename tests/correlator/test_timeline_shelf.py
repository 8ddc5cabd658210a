"""Timelines that several look at while rows still arrive: read once, kept apart by reading, seen while they are read."""

from __future__ import annotations

import json
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from correlator.timeline import chunks, timeline_bars, timeline_draw, timeline_place, timeline_shelf
from correlator.timeline.chunks import Timelines
from correlator.timeline.timeline_answers import Answers
from correlator.timeline.timeline_catalogue import Catalogue
from correlator.timeline.timeline_lod import Drawn
from correlator.timeline.timeline_preview import Preview
from correlator.timeline.timeline_scope import Scope
from tests import waiting
from tests.correlator.test_timeline_lod import ORIGIN, Bar, Slices, totals
from warpline.errors import StoreError

LENGTH = 1 << 20
ROWS: list[Bar] = [(row, 1_000 * at, 700, at % 3) for row in range(4) for at in range(1_000)]
ALL = {"from_ns": str(ORIGIN), "to_ns": str(ORIGIN + LENGTH)}
ONE_AT_A_TIME = threading.Lock()
"""Scopes are read by threads of their own, and the views here share one connection."""
WHOLE = {"level": "9", "first": "0", "tiles": "4"}


class Views:
    """The timeline's views over rows that may be held back and may grow."""

    def __init__(self, rows: list[Bar]) -> None:
        self.slices, self.go, self.asked = Slices(rows), threading.Event(), list[str]()
        self.go.set()

    def view(self, name: str, parameters: Mapping[str, Any]) -> Any:
        self.asked.append(name)
        if not name.startswith(("timeline_kind", "timeline_bar")):
            return pa.table({})
        with ONE_AT_A_TIME:
            found = self.slices.view(name, parameters)
        return self._pieces(found) if name == "timeline_bar" else found

    def _pieces(self, found: pa.Table) -> Iterator[pa.RecordBatch]:
        """Yield a quarter of the rows at once, and the others when they may go."""
        pieces = found.to_batches(max_chunksize=max(found.num_rows // 4, 1))
        yield from pieces[:1]
        self.go.wait(60)
        yield from pieces[1:]


@pytest.fixture
def views() -> Views:
    return Views(ROWS)


@pytest.fixture
def timelines(views: Views) -> Iterator[Timelines]:
    made = Timelines(views)
    with mock.patch.object(chunks.timeline_tracks, "describe", lambda views, scope, catalogue: {"live": scope.live}):
        yield made
    views.go.set()


def asked(timelines: Timelines, **query: str) -> bytes:
    return bytes(timelines.chunk({**ALL, **WHOLE, **query}).body)


def version(timelines: Timelines, **query: str) -> str:
    return str(json.loads(timelines.tracks({**ALL, **query}).body)["version"])


def head(chunk: bytes) -> tuple[int, ...]:
    return struct.unpack_from("<6I", chunk)


@pytest.mark.skipif(timeline_draw.library is None, reason="draw.c is not built here")
def test_a_scope_that_is_still_being_read_shows_what_there_is(views: Views, timelines: Timelines) -> None:
    views.go.clear()
    with mock.patch.object(chunks, "PATIENCE_S", 0.01):
        answer = timelines.chunk({**ALL, "level": "2", "first": "5", "tiles": "1"})
        while head(bytes(answer.body))[5] < 251:  # Its first quarter is on its way.
            answer = timelines.chunk({**ALL, "level": "2", "first": "5", "tiles": "1"})
    assert head(bytes(answer.body))[5] == 251
    assert sum(count for count, _ in totals(bytes(answer.body))) == 1_000
    assert answer.headers["cache-control"] == "no-store"
    views.go.set()
    with mock.patch.object(chunks, "PATIENCE_S", 60):
        found = asked(timelines)
    assert head(found)[5] == 0
    assert totals(found) == [(1_000, 700_000)] * 4


@pytest.mark.skipif(timeline_draw.library is None, reason="draw.c is not built here")
def test_what_there_is_can_be_looked_at_while_it_grows() -> None:
    rows = [(row, at * 37 % (LENGTH - 500), 300 + 400 * (at % 2), 0) for row in range(8) for at in range(2_000)]
    slices, scope = Slices(rows), Scope(ORIGIN, ORIGIN + LENGTH)
    with ONE_AT_A_TIME:
        catalogue = Catalogue(slices.view("timeline_kind", scope.parameters()))
        found = timeline_bars.load(catalogue, slices, scope, 1 << 30).pieces(0, LENGTH)
    bars = next(found)
    early, looked = Preview(catalogue, LENGTH), threading.Event()
    batch = pa.record_batch(
        {
            "row_id": catalogue.row_ids[bars.row], "name_id": np.repeat(catalogue.name_ids[0], len(bars)),
            "start_ns": bars.start, "end_ns": bars.end, "own": np.zeros(len(bars), np.uint8),
        }
    )  # fmt: skip

    def grow() -> None:
        while not looked.is_set():
            early.filled[:] = 0
            early._cells["count"][:] = early.grid.longs = 0
            timeline_place.placed(catalogue, [batch], early)

    with ThreadPoolExecutor(1) as grower:
        growing = grower.submit(grow)
        try:
            for _ in range(300):
                drawn = early.drawn()
                assert {len(getattr(drawn, name)) for name in Drawn.__dataclass_fields__} == {len(drawn)}
        finally:
            looked.set()
        growing.result()


def test_what_several_ask_for_at_once_is_read_and_drawn_once(views: Views, timelines: Timelines) -> None:
    drawn = mock.Mock(side_effect=chunks.chunk)
    with (
        mock.patch.object(chunks, "PATIENCE_S", 60),
        mock.patch.object(chunks, "chunk", drawn),
        ThreadPoolExecutor(10) as people,
    ):
        found = set(people.map(lambda _: asked(timelines), range(30)))
    assert len(found) == 1
    assert drawn.call_count == 1
    assert sorted(set(views.asked)) == sorted(views.asked)


def test_a_packed_chunk_is_the_plain_one(timelines: Timelines) -> None:
    with mock.patch.object(chunks, "PATIENCE_S", 60):
        assert zlib.decompress(asked(timelines, packed="1"), 31) == asked(timelines)


def test_a_page_is_answered_from_its_own_reading_while_newer_ones_are_made(views: Views, timelines: Timelines) -> None:
    with mock.patch.object(chunks, "PATIENCE_S", 60), mock.patch.object(timeline_shelf, "OLD_S", 0.0):
        old = version(timelines)
        before = asked(timelines, version=old)
        views.slices = Slices([*ROWS, (7, 2_000, 50, 0)])
        with mock.patch.object(timeline_shelf, "_PATIENCE", 0):
            new = version(timelines)
        assert old != new
        assert asked(timelines, version=old) == before
        assert sum(count for count, _ in totals(asked(timelines, version=new))) == len(ROWS) + 1
        assert asked(timelines, version=new) == asked(timelines)


def test_a_reading_that_is_gone_is_answered_from_a_newer_one_only_within_the_same_bounds(timelines: Timelines) -> None:
    bounds = version(timelines).rpartition(".")[0]
    with mock.patch.object(chunks, "PATIENCE_S", 60):
        assert asked(timelines, version=f"{bounds}.gone") == asked(timelines)
    with pytest.raises(StoreError, match="load the page again"):
        asked(timelines, version=f"1.2.{'gone'}")


def test_a_version_opens_no_other_scope(timelines: Timelines) -> None:
    other = version(timelines, to_ns=str(ORIGIN + 5_000))
    with pytest.raises(StoreError, match="load the page again"):
        asked(timelines, version=other)


def test_what_cannot_be_read_is_said_and_tried_again(views: Views, timelines: Timelines) -> None:
    with mock.patch.object(chunks, "PATIENCE_S", 60):
        gone = mock.patch.object(views, "_pieces", side_effect=StoreError("the disk is gone"))
        with gone, pytest.raises(StoreError, match="the disk is gone"):
            asked(timelines)
        assert totals(asked(timelines)) == [(1_000, 700_000)] * 4


def test_bars_are_let_go_for_newer_ones_beyond_the_memory_there_is(views: Views) -> None:
    shelf = timeline_shelf.Shelf(views, 100_000)
    opened = []
    for until in (1, 2, 3):
        one = shelf.open({"from_ns": str(ORIGIN), "to_ns": str(ORIGIN + LENGTH - until)})
        shelf.bars(one)
        opened.append(one)
        waiting.until(lambda: [each for each in opened if each.reading is not None] == opened[-1:])
    assert shelf.bars(opened[0]).catalogue.counts.sum() == len(ROWS)


def test_answers_are_kept_up_to_their_bytes_and_errors_are_not() -> None:
    answers, made = Answers(10), list[str]()

    def make(name: str) -> bytes:
        made.append(name)
        return b"12345"

    for name in "abcac":
        answers.get(name, lambda name=name: make(name))
    assert made == ["a", "b", "c", "a"]  # `a` was the oldest when `c` came.
    with pytest.raises(StoreError):
        answers.get("d", mock.Mock(side_effect=StoreError("no")))
    assert answers.get("d", lambda: b"1") == b"1"


def test_a_scope_without_bars_is_read_too() -> None:
    assert Scope(ORIGIN, ORIGIN + LENGTH).live is False
    made = Timelines(Views([(0, 5, 1, 0)]))
    with mock.patch.object(chunks, "PATIENCE_S", 60):
        found = bytes(made.chunk({"from_ns": str(ORIGIN + 10_000), "to_ns": str(ORIGIN + 20_000), **WHOLE}).body)
    assert head(found)[1:3] == (0, 0)
