"""What is known of a GPU without an exporter: its busy time by the interval, exactly what its executions cover."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import kineto
from correlator.storage import views
from correlator.storage.store import Store
from tests import golden
from tests.correlator.recordings import put, rows, store_in
from warpline import schema

SECOND, MILLI = 1_000_000_000, 1_000_000
Ask = Callable[..., list[dict[str, Any]]]
executions = st.lists(
    st.tuples(st.integers(0, 3 * SECOND), st.integers(0, SECOND), st.integers(0, 1)), min_size=1, max_size=30
)
"""(start, length, GPU)."""


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """The view over rows of one's own, in a database without files."""
    found = views.load()
    names = ("gpu_kernel", "gpu_busy", "gpu", "recording")
    with duckdb.connect() as connection:
        for name in names:
            connection.execute(schema.table(name).ddl()[0])
        connection.execute(f"CREATE VIEW timeline_gpu AS {found['timeline_gpu'].sql}")

        def answer(low: int = 0, high: int = 1 << 60, **given_: list[dict[str, Any]]) -> list[dict[str, Any]]:
            for name in names:
                connection.execute(f"DELETE FROM {name}")
                if given_.get(name):
                    columns = {column: [row[column] for row in given_[name]] for column in given_[name][0]}
                    connection.register("part", pa.Table.from_batches([schema.table(name).batch(columns)]))
                    connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM part")
            bound = {"since_ns": low, "until_ns": high}
            told = connection.sql(found["gpu_seen"].sql, params=bound).to_arrow_table().to_pylist()
            assert all(0 <= row["busy_ns"] <= row["end_ns"] - row["start_ns"] for row in told)
            return told  # type: ignore[no-any-return]

        yield answer


def kernel(start: int, length: int, gpu: int = 0, **more: Any) -> dict[str, Any]:
    row = {"start_ns": start, "end_ns": start + length, "node": "n", "gpu_uuid": f"GPU-{gpu}", "kind": "kernel"}
    return row | {"recording_uid": None, "rank": None} | more


def second(at: int, busy: int, gpu: int = 0, process: int = 1) -> dict[str, Any]:
    where = {"node": "n", "gpu_uuid": f"GPU-{gpu}", "process_uid": f"n:{process}"}
    return where | {"start_ns": at, "end_ns": at + SECOND, "busy_ns": busy, "kernel_ns": busy, "executions": 3}


def covered(ran: list[tuple[int, int]]) -> int:
    """Return how long at least one of the executions (start, end) ran."""
    reach = total = 0
    for start, end in sorted(ran):
        total += max(end - max(start, reach), 0)
        reach = max(reach, end)
    return total


@settings(max_examples=40, deadline=None)
@given(executions, st.integers(0, SECOND), st.integers(2 * SECOND, 4 * SECOND))
def test_the_intervals_of_a_gpu_sum_to_what_its_executions_cover(
    ask: Ask, ran: list[tuple[int, int, int]], low: int, high: int
) -> None:
    told = ask(low, high, gpu_kernel=[kernel(*each) for each in ran])
    for gpu in (0, 1):
        inside = [
            (max(start, low), min(start + length, high))
            for start, length, of in ran
            if of == gpu and start < high and start + length > low
        ]
        own = [row for row in told if row["gpu_uuid"] == f"GPU-{gpu}"]
        assert sum(row["busy_ns"] for row in own) == covered(inside)
        assert sum(row["executions"] or 0 for row in own) == len(inside)
        assert len({row["start_ns"] for row in own}) == len(own)
    assert len({row["start_ns"] for row in told}) <= 121


def test_seconds_that_collectors_tell_come_before_executions_which_may_be_a_part_of_them(ask: Ask) -> None:
    told = ask(
        gpu_busy=[second(10 * SECOND, 400 * MILLI), second(11 * SECOND, 600 * MILLI)],
        gpu_kernel=[kernel(10 * SECOND, 5 * MILLI), kernel(10 * SECOND, 250 * MILLI, gpu=1)],
    )
    found = {(row["gpu_uuid"], row["start_ns"]): (row["told_by"], row["busy_ns"], row["executions"]) for row in told}
    assert found == {
        ("GPU-0", 10 * SECOND): ("seconds", 400 * MILLI, 3),
        ("GPU-0", 11 * SECOND): ("seconds", 600 * MILLI, 3),
        ("GPU-1", 10 * SECOND): ("executions", 250 * MILLI, 1),
    }


def test_processes_that_share_a_gpu_are_summed_and_are_the_interval_at_most(ask: Ask) -> None:
    told = ask(gpu_busy=[second(0, 700 * MILLI, process=1), second(0, 600 * MILLI, process=2)])
    assert [(row["busy_ns"], row["executions"]) for row in told] == [(SECOND, 6)]


def test_ranks_of_a_recording_that_each_call_their_gpu_0_are_apart(ask: Ask) -> None:
    ranks = [kernel(0, MILLI, recording_uid="r", rank=rank) for rank in (0, 1)]
    recording = [{"recording_uid": "r", "name": "two ranks", "format": "kineto", "start_ns": 0, "end_ns": MILLI}]
    told = ask(gpu_kernel=ranks, recording=recording)
    assert [(row["recording"], row["rank"], row["busy_ns"]) for row in told] == [
        ("two ranks", 0, MILLI),
        ("two ranks", 1, MILLI),
    ]


def test_synchronisations_and_doubtful_times_are_no_work_of_a_gpu(ask: Ask) -> None:
    odd = [kernel(0, SECOND, kind="sync", validity=None), kernel(0, SECOND, validity="reversed")]
    assert ask(gpu_kernel=odd) == []


def test_an_imported_recording_shows_the_busy_time_that_its_own_page_shows(root: Path, tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        put(store, kineto, root / "tests/collectors/data/kineto_small.json", tmp_path)
        told = rows(store, "gpu_seen")
    assert sum(row["busy_ns"] for row in told) == 101_750
    assert {(row["recording"], row["rank"]) for row in told} == {("kineto_small.json", 1)}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = golden.stored(golden.SAMPLES / "real_gpu", Path(tmp_path_factory.mktemp("real")))
    yield opened
    opened.close()


def test_a_real_gpu_is_busy_for_as_long_as_its_collector_counted(real: Store) -> None:
    told = rows(real, "gpu_seen")
    counted = real.query("SELECT sum(busy_ns)::BIGINT AS busy_ns FROM gpu_busy").to_pylist()[0]["busy_ns"]
    assert {row["told_by"] for row in told} == {"seconds"}
    assert sum(row["busy_ns"] for row in told) == pytest.approx(counted, abs=len(told) + 1)
    assert {row["model"] for row in told} == {"NVIDIA H100 80GB HBM3"}
