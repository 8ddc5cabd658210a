"""A window of any size comes in the order of time, each row once, without being sorted as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correlator.storage import in_order
from correlator.storage.store import Store
from tests.correlator.storing import DAY, NOON, SYSCALL, small, syscalls
from warpline.batch import Batch

MOST = 1000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """20,000 rows in two segments that interleave, 300 of one moment, one of long before, and some of the next day."""
    store = Store(small(tmp_path))
    shuffled = np.random.default_rng(3).permutation(20_000)
    store.write([syscalls("a", shuffled[:10_000])])
    store.write([syscalls("b", shuffled[10_000:])])
    together = {"start_ns": NOON + 5_000_000, "node": "n", "name": "read", "result": np.arange(20_000, 20_300)}
    store.write([Batch(SYSCALL, SYSCALL.batch(together), "c")])
    store.write([syscalls("d", [20_300], NOON - 90 * DAY), syscalls("e", range(20_301, 20_305), NOON + DAY)])
    return store


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So little memory that no table's rows are sorted together."""
    monkeypatch.setattr(in_order, "at_once", lambda table, memory_mb: MOST)


@pytest.mark.usefixtures("few_at_once")
def test_a_table_comes_in_the_order_of_time_each_row_once(store: Store) -> None:
    found = store.view("syscall", {"order": "start_ns"}).read_all()
    times = found["start_ns"].to_numpy()
    assert (np.diff(times) >= 0).all()
    assert sorted(found["result"].to_pylist()) == list(range(20_305))


@pytest.mark.usefixtures("few_at_once")
def test_a_window_is_cut_at_its_ends_whatever_is_sorted_at_once(store: Store) -> None:
    window = {"since_ns": NOON + 2_000_000_000, "until_ns": NOON + 17_000_000_000}
    found = store.view("syscall", {"order": "start_ns", **window}).read_all()
    assert found["result"].to_pylist() == list(range(2000, 17_000))


@pytest.mark.parametrize("table", ["gpu_kernel", "pod", "process"])
def test_a_table_without_a_row_in_the_window_is_empty(store: Store, table: str) -> None:
    assert (
        store.view(table, {"order": "time_ns" if table == "pod" else "start_ns", "until_ns": 5}).read_all().num_rows
        == 0
    )


def test_no_stretch_holds_many_more_rows_than_asked_for(store: Store) -> None:
    sorted_rows: list[int] = []

    def read(sql: str, bound: Mapping[str, Any]) -> pa.RecordBatchReader:
        found = store.read(sql, bound).read_all()
        if "ORDER BY" in sql:
            sorted_rows.append(len(found))
        return found.to_reader()

    rows = in_order.rows(read, SYSCALL, "FROM syscall", {}, MOST)
    assert len(sorted_rows) == 1  # The others are read when they are come to.
    assert rows.read_all().num_rows == 20_305
    assert len(sorted_rows) > 15
    assert max(sorted_rows) < 2 * MOST


def test_more_memory_and_fewer_columns_let_more_rows_be_sorted_at_once() -> None:
    assert in_order.at_once(SYSCALL, 3000) == (3000 << 20) // 8 // (16 * 8)
    assert in_order.at_once(SYSCALL, 3000) > in_order.at_once(SYSCALL, 2048) > in_order.at_once(SYSCALL, 16)
