from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from correlator.joins.results import Results
from correlator.storage.readers import Readers
from warpline import schema

TABLE = schema.table("blame")
S = 1_000_000_000


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    yield Results(tmp_path, Readers())


def rows(*times: int, cost: int = 0) -> pa.Table:
    values = {
        "start_ns": list(times),
        "victim": "a",
        "culprit": "b",
        "kind": "prefill",
        "delay_ns": cost,
        "evidence": "exact",
    }
    return pa.Table.from_batches([TABLE.batch(values, len(times))])


def spans(results: Results) -> list[tuple[int, int]]:
    return sorted((f.since_ns // S, f.until_ns // S) for f in results.files["blame"])


def found(results: Results) -> list[tuple[int, int]]:
    tables = [pa.parquet.read_table(f.path) for f in results.files["blame"]]
    return sorted((r["start_ns"] // S, r["delay_ns"]) for t in tables for r in t.to_pylist())


def test_stretches_that_move_on_and_overlap_leave_files_of_one_piece_each(results: Results) -> None:
    for second in range(20):
        results.put(TABLE, second * S, (second + 3) * S, rows(*((second + i) * S for i in range(3)), cost=second), S)
    assert spans(results) == [(n, n + 1) for n in range(22)]
    assert found(results) == [(n, min(n, 19)) for n in range(22)]


def test_a_file_that_a_stretch_cuts_keeps_its_own_and_the_rest_of_its_rows(results: Results) -> None:
    results.put(TABLE, 0, 10 * S, rows(*(n * S for n in range(10))))
    results.put(TABLE, 8 * S, 12 * S, rows(8 * S, 9 * S, 10 * S, 11 * S, cost=1), S)
    assert spans(results) == [(0, 10), (10, 11), (11, 12)]
    assert found(results) == [(n, int(n >= 8)) for n in range(12)]
    results.put(TABLE, 2 * S, 4 * S, rows(), S)
    assert found(results) == [(n, int(n >= 8)) for n in range(12) if n not in (2, 3)]


def test_small_files_are_merged_across_idle_time_but_never_over_another_file(results: Results) -> None:
    for n in range(0, 100, 2):
        results.put(TABLE, n * S, (n + 1) * S, rows(n * S), S)
    while results.compact(TABLE):
        pass
    assert len(results.files["blame"]) < 24
    edges = [edge for span in spans(results) for edge in span]
    assert edges == sorted(edges)
    assert found(results) == [(n, 0) for n in range(0, 100, 2)]


def test_what_a_crash_left_of_a_file_that_was_replaced_goes(results: Results, tmp_path: Path) -> None:
    results.put(TABLE, 0, 2 * S, rows(0, S))
    old = results.files["blame"][0]
    kept = old.path.read_bytes()
    results.put(TABLE, S, 3 * S, rows(S, 2 * S, cost=1), S)
    old.path.write_bytes(kept)
    again = Results(tmp_path, Readers())
    assert found(again) == found(results) == [(0, 0), (1, 1), (2, 1)]
    assert not old.path.exists()


def test_a_damaged_file_does_not_keep_the_store_from_opening(results: Results, tmp_path: Path) -> None:
    results.put(TABLE, 0, S, rows(0))
    results.files["blame"][0].path.write_bytes(b"PAR1 and then nothing")
    assert [f.rows for f in Results(tmp_path, Readers()).files["blame"]] == [0]
