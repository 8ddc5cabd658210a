"""Step ledgers where no engine tells its steps: seen on sockets and on the GPU alone, or told in totals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from correlator.joins.executions import load
from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.simulator.recording import Recording
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

Seen = dict[str, pa.RecordBatch]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(state_dir=str(tmp_path / "state"), correlator_disk_reserve_mb=0))
    yield made
    made.close()


def put(store: Store, seen: Seen, suffix: str = "") -> None:
    store.write([Batch(schema.table(name), rows, name + suffix) for name, rows in seen.items()])


def members(store: Store) -> pa.Table:
    return store.query("SELECT * FROM step_member ORDER BY process_uid, step_ordinal, internal_id")


def owners(store: Store) -> set[str]:
    return set(store.query("SELECT DISTINCT owner FROM share")["owner"].to_pylist())


@pytest.mark.parametrize("level", ["spans", "sockets"])
def test_neither_order_nor_batching_changes_what_is_estimated(store: Store, level: str) -> None:
    seen = Recording("split_prefill").seen(level)
    joins = Joins(store.settings, store)
    order = np.random.default_rng(4)
    pieces = [
        (n, rows.take(pa.array(p)))
        for n, rows in seen.items()
        for p in np.array_split(np.arange(len(rows)), 2)
        if len(p)
    ]
    for place in order.permutation(len(pieces)).tolist():
        name, rows = pieces[place]
        put(store, {name: rows}, f"/{place}")
        joins.catch_up()
    step_by_step = members(store)
    joins.rebuild()
    assert len(step_by_step) >= 60
    assert set(step_by_step["level"].to_pylist()) == {level}
    assert set(step_by_step["evidence"].to_pylist()) == {"estimated"}
    assert members(store).equals(step_by_step)


def test_where_two_engines_ran_and_no_family_says_whose_a_request_was_nobody_gets_the_time(store: Store) -> None:
    seen = Recording("split_prefill").seen("sockets")
    del seen["process"]
    put(store, seen)
    for name in ("launch", "gpu_kernel"):
        rows = seen[name]
        other = pa.array(["n1:1:200"] * len(rows)).dictionary_encode().cast(rows.schema.field("process_uid").type)
        put(store, {name: rows.set_column(rows.schema.get_field_index("process_uid"), "process_uid", other)}, "/other")
    Joins(store.settings, store).rebuild()
    assert owners(store) == {"__unattributed__"}


def test_an_engines_child_runs_what_its_server_was_asked(store: Store) -> None:
    seen = Recording("split_prefill").seen("sockets")
    put(store, seen)
    Joins(store.settings, store).rebuild()
    found = members(store)
    assert set(found["process_uid"].to_pylist()) == {"n1:1:100"}
    assert set(seen["http_exchange"]["response_id"].to_pylist()) >= set(found["internal_id"].to_pylist())
    # Whoever asks by the exchange finds what is shared under the response's id.
    known = store.query(
        "SELECT any_value(exchange.value) AS uid, alias.value AS owner FROM alias JOIN alias AS exchange USING (attempt_uid)"
        " WHERE exchange.kind = 'exchange' AND alias.kind = 'response_id' AND alias.value IN (SELECT owner FROM share)"
        " GROUP BY alias.value ORDER BY alias.value LIMIT 1"
    ).to_pylist()[0]
    for view in ("request_share", "request_step"):
        rows = store.view(view, {"request": known["uid"]}).read_all()
        assert set(rows["internal_id"].to_pylist()) == {known["owner"]}


def test_messages_without_emissions_make_the_level_that_their_totals_allow(store: Store) -> None:
    seen = Recording("split_prefill").seen("totals")
    put(store, seen)
    Joins(store.settings, store).rebuild()
    assert set(members(store)["level"].to_pylist()) == {"totals"}


def test_a_step_seen_on_the_gpu_counts_unless_its_engine_told_of_one_soon_after(tmp_path: Path) -> None:
    at = 1_700_000_000 * 10**9
    step = {"process_uid": "n:1:1", "node": "n", "time_ns": at, "step_ordinal": 5, "internal_id": "r"}
    step |= {"scheduled_tokens": 1, "level": "batches", "evidence": "derived"}
    counted = []
    for number, (process, after_s) in enumerate([("n:1:1", 59), ("n:1:1", 60), ("n:1:1", -5), ("n:2:2", 1), (None, 1)]):
        store = Store(Settings(state_dir=str(tmp_path / str(number)), correlator_disk_reserve_mb=0))
        told = {"process_uid": process, "node": "n", "message": 9, "time_ns": at + after_s * 10**9}
        for name, row in (("step_member", step), ("engine_message", told)):
            store.write([Batch(schema.table(name), schema.table(name).batch(row, 1), name)])
        found = store.query(load("message"), {"since_ns": at, "until_ns": at + 10**9}).to_pylist()
        store.close()
        counted.append(5 in [row["ordinal"] for row in found])
    assert counted == [False, True, True, True, True]
