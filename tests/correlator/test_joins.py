from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from correlator.joins.executions import load
from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.simulator.score import toy
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

SORTS = {
    "share": ("time_ns", "step_ordinal", "gpu_uuid", "kernel_class", "owner"),
    "step_member": ("step_ordinal", "internal_id"),
    "blame": ("start_ns", "victim", "culprit", "kind"),
    "alias": ("kind", "value", "attempt_uid"),
    "edge": ("from_id", "to_id", "relation"),
    "finding": ("subject", "sentence"),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(state_dir=str(tmp_path / "state"), correlator_disk_reserve_mb=0))
    yield made
    made.close()


def batches(seen: dict[str, pa.Table], pieces: int = 1) -> list[Batch]:
    found = []
    for name, rows in seen.items():
        for i, part in enumerate(np.array_split(np.arange(len(rows)), pieces)):
            rows_ = rows.take(pa.array(part)).combine_chunks().to_batches()
            if rows_:
                found.append(Batch(schema.table(name), rows_[0], f"{name}/{i}"))
    return found


def joined(store: Store, sent: Sequence[Batch], each: bool = False) -> dict[str, pa.Table]:
    joins = Joins(store.settings, store)
    for batch in sent if each else []:
        store.write([batch])
        joins.catch_up()
    if not each:
        store.write(sent)
        joins.catch_up()
    return results(store)


def results(store: Store) -> dict[str, pa.Table]:
    return {name: store.query(f"SELECT * FROM {name} ORDER BY {', '.join(keys)}") for name, keys in SORTS.items()}


def one(store: Store, sql: str) -> list[tuple[object, ...]]:
    return [tuple(r.values()) for r in store.query(sql).to_pylist()]


def test_all_measured_gpu_time_is_shared_and_nothing_else(store: Store, tmp_path: Path) -> None:
    seen, _ = toy(tmp_path, seconds=6)
    joined(store, batches(seen))
    kernel = dict(one(store, "SELECT 'ns', sum(end_ns - start_ns)::BIGINT FROM gpu_kernel"))
    share = dict(one(store, "SELECT 'ns', sum(share_ns)::BIGINT FROM share"))
    assert share == kernel
    assert one(store, "SELECT sum(busy_ns) FROM share")[0][0] == kernel["ns"]  # None of the toy's kernels overlap.
    unattributed = one(store, "SELECT coalesce(sum(share_ns), 0) FROM share WHERE owner LIKE '\\_\\_%' ESCAPE '\\'")[0][
        0
    ]
    assert unattributed < kernel["ns"] * 0.01  # type: ignore[operator]


def test_what_the_wire_alone_tells_is_never_called_exact(store: Store, tmp_path: Path) -> None:
    seen, _ = toy(tmp_path, seconds=4)
    found = joined(store, batches(seen))
    assert set(found["step_member"]["level"].to_pylist()) == {"wire"}
    assert set(found["share"]["evidence"].to_pylist()) <= {"derived", "estimated", "unknown"}


def told_by_plugin(truth: dict[str, pa.Table]) -> pa.RecordBatch:
    ledger = truth["member"]
    start = dict(zip(truth["step"]["step"].to_pylist(), truth["step"]["scheduled_ns"].to_pylist(), strict=True))
    return schema.table("step_member").batch(
        {
            "time_ns": [start[s] for s in ledger["step"].to_pylist()],
            "node": "n1",
            "process_uid": "n1:1:100",
            "engine_index": 0,
            "step_ordinal": ledger["step"],
            "internal_id": ledger["internal_id"],
            "scheduled_tokens": ledger["scheduled_tokens"],
            "computed_before_tokens": ledger["computed_before_tokens"],
            "sampled": ledger["sampled"],
            "phase": pa.array(["decode" if n == 1 else "prefill" for n in ledger["scheduled_tokens"].to_pylist()]),
            "level": "plugin",
            "evidence": "exact",
        },
        len(ledger),
    )


def test_the_plugins_record_is_used_where_it_is_and_is_exact(store: Store, tmp_path: Path) -> None:
    seen, truth = toy(tmp_path, seconds=4, plugin=True)
    plugin = told_by_plugin(truth)
    sent = [*batches(seen), Batch(schema.table("step_member"), plugin, "plugin")]
    found = joined(store, sent)
    assert set(found["share"]["evidence"].to_pylist()) == {"exact"}
    assert set(found["step_member"]["level"].to_pylist()) == {"plugin"}
    assert not any(owner.startswith("__") for owner in found["share"]["owner"].to_pylist())


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_late_rows_and_small_batches_give_the_same_result_as_all_at_once(
    store: Store, tmp_path: Path, order: str
) -> None:
    seen, _ = toy(tmp_path, seconds=2, rate=8)
    pieces = batches(seen, 2)
    if order == "backward":
        pieces = pieces[::-1]
    if order == "shuffled":
        pieces = [pieces[i] for i in np.random.default_rng(3).permutation(len(pieces))]
    step_by_step = joined(store, pieces, each=True)
    joins = Joins(store.settings, store)
    joins.rebuild()
    again = results(store)
    for name in SORTS:
        assert again[name].equals(step_by_step[name]), name
    assert len(again["share"]) > 1000
    assert len(again["blame"]) > 0


def seconds_of(seen: dict[str, pa.Table], every_ns: int) -> list[list[Batch]]:
    """Return batches of all tables as they would be sent, one list for each piece of time."""
    time = {name: np.asarray(rows[schema.table(name).time].to_numpy()) for name, rows in seen.items()}
    edges = range(min(t.min() for t in time.values()), max(t.max() for t in time.values()) + 1, every_ns)
    return [
        batches({n: r.filter(pa.array((time[n] >= at) & (time[n] < at + every_ns))) for n, r in seen.items() if len(r)})
        for at in edges
    ]


@pytest.mark.parametrize("level", ["plugin", "wire"])
def test_a_stream_followed_second_by_second_gives_what_all_at_once_gives(
    store: Store, tmp_path: Path, level: str
) -> None:
    seen, truth = toy(tmp_path, seconds=4, rate=6, plugin=level == "plugin")
    if level == "plugin":
        seen["step_member"] = pa.Table.from_batches([told_by_plugin(truth)])
    joins = Joins(store.settings, store)
    for number, sent in enumerate(seconds_of(seen, 400_000_000)):
        store.write([Batch(b.table, b.rows, f"{b.batch_id}/{number}") for b in sent])
        joins.catch_up()
    followed = results(store)
    joins.rebuild()
    again = results(store)
    for name in SORTS:
        assert again[name].equals(followed[name]), name
    assert set(again["step_member"]["level"].to_pylist()) == {level}
    assert len(again["step_member"]) > 100


def test_rows_that_come_twice_under_other_batch_ids_change_nothing(store: Store, tmp_path: Path) -> None:
    seen, _ = toy(tmp_path, seconds=2, rate=5)
    once = joined(store, batches(seen))
    twice = joined(store, [Batch(b.table, b.rows, b.batch_id + "/again") for b in batches(seen)])
    for name in SORTS:
        assert twice[name].equals(once[name]), name


def test_executions_without_a_launch_end_in_unattributed_and_nobody_elses_share_grows(
    store: Store, tmp_path: Path
) -> None:
    seen, _ = toy(tmp_path, seconds=3, plugin=True)
    del seen["engine_message"]
    found = joined(store, batches(seen))
    assert set(found["share"]["owner"].to_pylist()) == {"__unattributed__"}
    assert set(found["share"]["evidence"].to_pylist()) == {"unknown"}


def test_a_rebuild_tells_how_far_it_is(store: Store, tmp_path: Path) -> None:
    seen, _ = toy(tmp_path, seconds=2)
    store.write(batches(seen))
    told: list[tuple[str, int, int]] = []
    Joins(store.settings, store).rebuild(lambda *each: told.append(each))
    assert [t for t in told if t[1] == t[2]][-1][0] == "blame"
    assert {t[0] for t in told} == {"wire", "identity", "clock", "gpu", "blame"}


def test_a_rebuild_does_not_walk_through_weeks_without_a_row(store: Store) -> None:
    week_ns = 7 * 86_400 * 10**9
    table = schema.table("http_exchange")
    for start_ns in (1_700_000_000 * 10**9, 1_700_000_000 * 10**9 + week_ns):
        rows = table.batch(
            {"side": "server", "node": "a", "process_uid": "p", "start_ns": start_ns, "end_ns": start_ns}, 1
        )
        store.write([Batch(table, rows, str(start_ns))])
    told: list[tuple[str, int, int]] = []
    Joins(store.settings, store).rebuild(lambda *each: told.append(each))
    assert {stage for stage, *_ in told} >= {"wire", "identity", "clock"}
    assert max(total for *_, total in told) < 200  # A week has 10,080 stretches of the longest of them.


def test_exchanges_between_two_nodes_bound_their_clocks(store: Store) -> None:
    second = 1_000_000_000
    base = 1_700_000_040 * second
    sent = base + np.arange(200) * second // 4
    ahead = 1_234_567
    ends = {
        "client": {"node": "a", "start_ns": sent, "response_start_ns": sent + 10_060_000, "isn": (1, 2)},
        "server": {
            "node": "b",
            "start_ns": sent + 30_000 + ahead,
            "response_start_ns": sent + 10_030_000 + ahead,
            "isn": (2, 1),
        },
    }
    sent_batches = []
    for side, end in ends.items():
        exchange = schema.table("http_exchange").batch(
            {
                "side": side,
                "node": end["node"],
                "process_uid": side,
                "start_ns": end["start_ns"],
                "response_start_ns": end["response_start_ns"],
                "end_ns": end["response_start_ns"],
                "connection_id": 1,
                "ordinal": np.arange(200),
                "request_offset_bytes": np.arange(200) * 100,
            },
            200,
        )
        connection = schema.table("connection").batch(
            {
                "start_ns": base,
                "node": end["node"],
                "connection_id": 1,
                "isn_sent": end["isn"][0],
                "isn_received": end["isn"][1],
            },
            1,
        )
        sent_batches += [
            Batch(schema.table("http_exchange"), exchange, side),
            Batch(schema.table("connection"), connection, f"{side}/connection"),
        ]
    joined(store, sent_batches)
    rows = store.query("SELECT * FROM clock_edge ORDER BY time_ns").to_pylist()
    assert {(r["node"], r["other_node"], r["status"]) for r in rows} == {("a", "b", "ok")}
    assert all(r["low_ns"] <= ahead <= r["high_ns"] for r in rows)
    assert any(r["high_ns"] - r["low_ns"] <= 102_000 for r in rows if base < r["time_ns"] < base + 50 * second)
    # No side of the pairs is held against all of the other: that was 6 s of CPU for two minutes of 100 requests a second.
    plan = store.query("EXPLAIN " + load("clock"), {"since_ns": base, "until_ns": base + 60 * second}).to_pylist()
    assert "Hash Join" in str(plan) and "Nested Loop" not in str(plan) and "Cross" not in str(plan)
