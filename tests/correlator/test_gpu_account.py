"""Where GPU time went and what it cost: whatever ran, the rows of a GPU sum to the time that it was watched."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.rings.busy import Busy
from correlator.explain import explain, lines
from correlator.joins.busy import busy_time
from correlator.joins.stages import Joins
from correlator.storage import prices, views
from correlator.storage.store import Store
from tests.simulator.score import toy
from warpline import schema
from warpline.batch import Batch
from warpline.errors import SettingsError
from warpline.settings import Settings

OWNERS = ["r-1", "r-2", "__padding__", "__unattributed__", "__dummy__", "__overhead__"]
SECOND = 1_000_000_000
executions = st.lists(
    st.tuples(st.integers(0, 20 * SECOND), st.integers(1, 2 * SECOND), st.integers(0, 1), st.sampled_from(OWNERS)),
    min_size=1,
    max_size=30,
)
"""(start, length, process, owner): two processes on one GPU."""


@pytest.fixture(scope="module")
def query() -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """The view over one GPU's executions alone, in a database without files."""
    found = views.load()
    with duckdb.connect() as connection:
        for name in ("share", "gpu_busy", "gpu_sample", "gpu"):
            connection.execute(schema.table(name).ddl()[0])
        prices.install(connection, "2g.20gb=1, H100=3.6, 0.9")
        connection.execute(f"CREATE VIEW gpu_price AS {found['gpu_price'].sql}")

        def ask(rows: dict[str, list[dict[str, Any]]], low: int = 0, high: int = 1 << 60) -> list[dict[str, Any]]:
            for name, given_ in rows.items():
                connection.execute(f"DELETE FROM {name}")
                known = schema.table(name)
                if given_:
                    columns = {column: [row[column] for row in given_] for column in given_[0]}
                    connection.register("part", pa.Table.from_batches([known.batch(columns)]))
                    connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM part")
            bound = {"since_ns": low, "until_ns": high}
            answer: list[dict[str, Any]] = (
                connection.sql(found["gpu_account"].sql, params=bound).to_arrow_table().to_pylist()
            )
            return answer

        yield ask


def as_rows(ran: list[tuple[int, int, int, str]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of `share` that the joins would make of executions, and the seconds that collectors tell of."""
    start, length, process = (np.array([each[i] for each in ran], np.int64) for i in range(3))
    busy = busy_time(np.zeros_like(start), start, start + length).tolist()
    common = {"node": "n", "gpu_uuid": "GPU-1", "kernel_class": "dense", "evidence": "exact"}
    share = [
        common | {"time_ns": s, "owner": owner, "share_ns": size, "busy_ns": used, "share_j": 1.0}
        for (s, size, _, owner), used in zip(ran, busy, strict=True)
    ]
    seconds = []
    for each in (0, 1):
        mine = process == each
        seen = Busy()
        seen.add(start[mine], (start + length)[mine], np.zeros(mine.sum(), np.uint8))
        for found in seen.close(0, all_of_it=True):
            at = {"start_ns": found.start_ns, "end_ns": found.start_ns + SECOND, "process_uid": str(each)}
            amounts = {"busy_ns": found.busy_ns, "kernel_ns": found.kernel_ns, "executions": found.executions}
            seconds.append({"node": "n", "gpu_uuid": "GPU-1"} | at | amounts)
    return {"share": share, "gpu_busy": seconds, "gpu_sample": [], "gpu": []}


@settings(max_examples=30, deadline=None)
@given(executions)
def test_the_rows_of_a_gpu_sum_to_the_time_that_it_was_watched_and_to_its_price(
    query: Callable[..., list[dict[str, Any]]], ran: list[tuple[int, int, int, str]]
) -> None:
    rows = as_rows(ran)
    found = {row["went_to"]: row for row in query(rows)}
    watched = max(r["end_ns"] for r in rows["gpu_busy"]) - min(r["start_ns"] for r in rows["gpu_busy"])
    assert sum(row["time_ns"] for row in found.values()) == watched
    assert {row["watched_ns"] for row in found.values()} == {watched}
    assert sum(row["cost"] for row in found.values()) == pytest.approx(watched / 3.6e12 * 0.9)
    assert sum(row["share_ns"] for row in found.values()) == sum(size for _, size, _, _ in ran)
    edges = sorted({s for s, _, _, _ in ran} | {s + n for s, n, _, _ in ran})
    idle = watched - sum(
        b - a for a, b in itertools.pairwise(edges) if any(s <= a and b <= s + n for s, n, _, _ in ran)
    )
    assert found["idle"]["time_ns"] == idle
    assert set(found) == {"idle"} | {"requests" if o[0] == "r" else o.strip("_") for _, _, _, o in ran}


def test_a_reading_before_and_after_says_that_the_gpu_was_idle(query: Callable[..., list[dict[str, Any]]]) -> None:
    rows = as_rows([(10 * SECOND, SECOND // 2, 0, "r-1")])
    common = {"node": "n", "gpu_uuid": "GPU-1", "metric": "hw.power", "value": 80.0}
    rows["gpu_sample"] = [common | {"time_ns": at * SECOND} for at in (4, 40)]
    assert [(r["went_to"], r["time_ns"]) for r in query(rows)] == [
        ("idle", 35 * SECOND + SECOND // 2),
        ("requests", SECOND // 2),
    ]
    assert [r["watched_ns"] for r in query(rows, 5 * SECOND, 12 * SECOND)] == [SECOND, SECOND]


def test_a_gpu_whose_work_is_shared_out_to_nobody_yet_was_not_idle(query: Callable[..., list[dict[str, Any]]]) -> None:
    rows = as_rows([(10 * SECOND, SECOND // 4, 0, "r-1"), (12 * SECOND, SECOND // 2, 1, "r-1")]) | {"share": []}
    assert [(r["went_to"], r["time_ns"], r["evidence"]) for r in query(rows)] == [
        ("idle", 2 * SECOND + SECOND // 4, "derived"),
        ("unattributed", 3 * SECOND // 4, "unknown"),
    ]


@pytest.mark.parametrize(
    ("model", "profile", "hour"),
    [("NVIDIA H100 80GB HBM3", None, 3.6), ("NVIDIA H100 80GB HBM3", "2g.20gb", 1), ("NVIDIA A10", None, 0.9)],
)
def test_the_first_price_that_fits_the_model_or_the_profile_holds(
    query: Callable[..., list[dict[str, Any]]], model: str, profile: str | None, hour: float
) -> None:
    rows = as_rows([(0, SECOND, 0, "r-1")])
    rows["gpu"] = [{"time_ns": 0, "node": "n", "gpu_uuid": "GPU-1", "model": model, "profile": profile}]
    (cost,) = (row["cost"] for row in query(rows) if row["went_to"] == "requests")
    assert cost == pytest.approx(hour / 3600)


@pytest.mark.parametrize("text", ["H100=", "=3", "cheap", "-1", "H100=nan", "2;3"])
def test_what_is_no_price_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(SettingsError, match=r"correlator_gpu_price: .* is no price; give one for each GPU hour"):
        prices.parse(text)


def test_requests_pay_for_their_part_and_explain_says_it(tmp_path: Path) -> None:
    priced = Settings(state_dir=str(tmp_path / "s"), correlator_disk_reserve_mb=0, correlator_gpu_price="3600000")
    store = Store(priced)
    seen, _ = toy(tmp_path, seconds=2, rate=6, most_requests=8)
    for name, rows in seen.items():
        store.write([Batch(schema.table(name), rows.combine_chunks().to_batches()[0], name)])
    Joins(priced, store).catch_up()
    ids = store.query("SELECT internal_id, response_id FROM request WHERE internal_id IS NOT NULL").to_pylist()
    parts = [store.view("request_share", {"request": row["internal_id"]}).read_all().to_pylist() for row in ids]
    account = store.view("gpu_account", {}).read_all().to_pylist()
    pods = store.view("gpu_pod", {}).read_all().to_pylist()
    found = explain(lambda name, **p: store.view(name, p).read_all(), ids[0]["response_id"])
    store.close()
    paid = sum(row["cost"] for mine in parts for row in mine)
    assert paid == pytest.approx(sum(r["cost"] for r in account if r["went_to"] == "requests"))
    assert sum(r["cost"] for r in pods) == pytest.approx(sum(r["cost"] for r in account))
    assert found.cost == pytest.approx(sum(row["cost"] for row in parts[0])) == found.busy_ns / 1e6
    assert f"which cost {found.cost:.3g}" in "\n".join(lines(found))
