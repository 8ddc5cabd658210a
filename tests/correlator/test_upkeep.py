"""Upkeep: small segments are merged, finished days sorted, old days dropped, and no row is lost or doubled by it."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pytest

from correlator.storage import in_order
from correlator.storage import upkeep as upkeep_module
from correlator.storage.segments import ROWS, verify
from correlator.storage.store import Store
from correlator.storage.upkeep import Upkeep
from tests.correlator.storing import DAY, NOON, SPAN, count, kernels, numbers, small, spans_of, syscalls
from warpline.batch import Batch


def test_small_segments_are_merged_sorted_and_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_module, "_MANY", 3)
    settings = small(tmp_path)
    store = Store(settings)
    upkeep = Upkeep(settings, store)
    now = time.time_ns() // DAY * DAY + 1
    for number in range(3):
        store.write([kernels(f"a/1/{number}", ROWS, now + (2 - number) * 1_000_000_000)])
    before = store.view("gpu_kernel", {"order": "start_ns"}).read_all()
    upkeep.run_once()
    (merged,) = store.days[now // DAY].segments.values()
    assert merged.rows == 3 * ROWS and merged.merged == 1 and upkeep.merged == 3
    assert verify(store.days[now // DAY].directory / merged.name, merged) is None
    after = store.view("gpu_kernel").read_all()
    assert after["start_ns"].to_pylist() == sorted(after["start_ns"].to_pylist())
    assert after.sort_by("start_ns").select(["correlation_id", "name"]).num_rows == before.num_rows
    store.close()
    store = Store(settings)
    assert count(store) == 3 * ROWS
    store.write([kernels("a/1/1", ROWS, now)])
    assert count(store) == 3 * ROWS


def test_no_more_rows_are_merged_than_can_be_sorted_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_module, "_MANY", 3)
    monkeypatch.setattr(in_order, "fitting", lambda table, memory_bytes: 2 * ROWS)
    settings = small(tmp_path)
    store = Store(settings)
    upkeep = Upkeep(settings, store)
    now = time.time_ns() // DAY * DAY + 1
    for number in range(5):
        store.write([kernels(f"a/1/{number}", ROWS, now + number * 1_000_000_000)])
    for _ in range(4):
        upkeep.run_once()
    sizes = sorted(segment.rows for segment in store.days[now // DAY].segments.values())
    assert sizes == [ROWS, 2 * ROWS, 2 * ROWS]
    assert count(store) == 5 * ROWS


def test_a_finished_day_moves_its_rows_into_sorted_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_module, "_QUIET_S", -1.0)
    settings = small(tmp_path)
    store = Store(settings)
    for number in range(3):
        store.write([kernels(f"a/1/{number}", ROWS // 2, NOON + number * DAY // 8)])
    assert not store.days[20_000].segments
    Upkeep(settings, store).run_once()
    assert len(store.days[20_000].segments) == 1 and count(store) == ROWS // 2 * 3
    assert count(store, "day_20241004.gpu_kernel") == 0


def test_old_days_go_by_age_of_arrival_and_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small(tmp_path, correlator_retention_days=7)
    store = Store(settings)
    store.write([syscalls("a/1/1", [1]), syscalls("a/1/2", [2], time.time_ns())])
    upkeep = Upkeep(settings, store)
    upkeep.drop_old_days()
    assert numbers(store) == [1, 2], "a recording of last year that came today stays"
    monkeypatch.setattr(upkeep, "_quiet", lambda day: 8 * 86400.0)
    upkeep.drop_old_days()
    assert numbers(store) == [2] and not (tmp_path / "store" / "2024-10-04.duckdb").exists()
    small_store = small(tmp_path, correlator_retention_gb=1e-9)
    store.write([syscalls("a/1/3", [3], NOON)])
    Upkeep(small_store, store).drop_old_days()
    assert numbers(store) == [2], "the newest day stays whatever its size"


def test_segments_with_and_without_nulls_in_a_column_are_read_and_merged_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "_MANY", 2)
    settings = small(tmp_path)
    store = Store(settings)
    whole = spans_of("hash-1", range(ROWS))
    ends = pa.array([NOON + n if n % 2 else None for n in range(ROWS)], pa.int64())
    rows = spans_of("hash-2", range(ROWS, 2 * ROWS)).rows
    some = rows.set_column(rows.schema.get_field_index("end_ns"), SPAN.arrow.field("end_ns"), ends)
    none_missing = some.set_column(rows.schema.get_field_index("end_ns"), SPAN.arrow.field("end_ns"), ends.fill_null(1))
    other_ids = spans_of("hash-3", range(2 * ROWS, 3 * ROWS)).rows["span_id"]
    full = none_missing.set_column(rows.schema.get_field_index("span_id"), SPAN.arrow.field("span_id"), other_ids)
    for batch in (whole, Batch(SPAN, some, "hash-2"), Batch(SPAN, full, "hash-3")):
        store.write([batch])
    wanted = (3 * ROWS, ROWS // 2 + ROWS)

    def found() -> tuple[int, ...]:
        return tuple(store.query("SELECT count(*) AS a, count(end_ns) AS b FROM span").to_pylist()[0].values())

    assert len(store.days[NOON // DAY].segments) == 3 and found() == wanted
    Upkeep(settings, store).run_once()
    assert len(store.days[NOON // DAY].segments) == 1 and found() == wanted
