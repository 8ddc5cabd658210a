"""What goes on is known however long ago it began: days are dropped, processes and pods are carried over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from correlator.storage.segments import write
from correlator.storage.store import Store
from correlator.storage.upkeep import Upkeep
from tests.correlator.storing import DAY, KERNEL, NOON, kernels, small
from warpline import schema
from warpline.batch import Batch

PROCESS, POD, CLOCK, NODE = (schema.table(name) for name in ("process", "pod", "clock_pair", "cluster_node"))
LATER = NOON + 8 * DAY


def batch(table: schema.Table, name: str, **columns: Any) -> Batch:
    return Batch(table, table.batch(columns), name)


def process(uid: str, **more: Any) -> Batch:
    node = uid.partition(":")[0]
    columns = {"start_ns": [NOON], "node": node, "process_uid": uid, "pid": 7, "observed_by": "process"} | more
    return batch(PROCESS, f"{uid}/{more.get('end_ns')}/{more.get('observed_by')}", **columns)


def clock(node: str, time_ns: int) -> Batch:
    read = {"time_ns": [time_ns], "realtime_ns": time_ns, "monotonic_ns": 1, "boottime_ns": 1, "half_width_ns": 1}
    return batch(CLOCK, f"{node}/{time_ns}", node=node, boot_id="b", **read)


def opened(tmp_path: Path) -> Store:
    """A store whose first day told of processes, pods and nodes, and whose last one is eight days later."""
    store = Store(small(tmp_path, correlator_retention_days=7))
    store.write(
        [
            process("n:1:engine", pod_uid="pod-1", role="engine"),
            process("n:2:gone"),
            process("n:2:gone", end_ns=NOON + 5),
            process("dead:3:engine"),
            process("n:4:both"),
            process("n:4:both", observed_by="tetragon", executable="/usr/bin/both"),
            batch(POD, "p1", time_ns=[NOON, NOON + 9], pod_uid="pod-1", pod="vllm-0", phase=["Pending", "Running"]),
            batch(POD, "p2", time_ns=[NOON, NOON + 9], pod_uid="pod-2", pod="vllm-1", phase=["Running", "Deleted"]),
            batch(NODE, "n1", time_ns=[NOON], node="edge", ready=True, deleted=False, gpus=1),
            clock("n", NOON),
            clock("dead", NOON),
        ]
    )
    store.write(
        [clock("n", LATER), batch(NODE, "n2", time_ns=[LATER], node="other", ready=True), kernels("k", 5, LATER)]
    )
    return store


def told(store: Store, table: str, column: str) -> list[Any]:
    return sorted(store.query(f"SELECT {column} FROM {table}")[column].to_pylist())


def holds(store: Store) -> None:
    assert told(store, "process", "process_uid") == ["n:1:engine", "n:4:both", "n:4:both"]
    engine = store.query("SELECT * FROM process WHERE role = 'engine'").to_pylist()[0]
    assert (engine["start_ns"], engine["pod_uid"], engine["end_ns"]) == (NOON, "pod-1", None)
    assert store.query("SELECT pod, phase, time_ns FROM pod").to_pylist() == [
        {"pod": "vllm-0", "phase": "Running", "time_ns": NOON + 9}
    ]
    assert told(store, "cluster_node", "node") == ["edge", "other"]


def test_what_goes_on_outlives_the_day_that_told_of_it_and_what_is_over_does_not(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for path in (tmp_path / "store").glob("2024-10-04*"):
        os.utime(path, (0, 0))
    Upkeep(store.settings, store).drop_old_days()
    assert sorted(store.days) == [20_008] and not store.losses
    holds(store)
    store.close()
    store = Store(store.settings)
    holds(store)
    # Merged with what came since, and dropped in its turn, it goes on.
    store.write([process("n:5:new", start_ns=[LATER]), clock("n", LATER + DAY)])
    store.drop_day(20_008)
    assert told(store, "process", "process_uid") == ["n:1:engine", "n:4:both", "n:4:both", "n:5:new"]
    assert sorted(store.days) == [20_009]
    store.close()


def test_a_day_that_was_carried_over_but_not_dropped_is_not_carried_over_twice(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store._carry_over(20_000)  # As where the correlator is killed between the two.
    store.drop_day(20_000)
    holds(store)


def test_the_last_day_is_dropped_with_all_it_tells(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.drop_day(20_008)
    assert told(store, "process", "process_uid") == [
        "dead:3:engine",
        "n:1:engine",
        "n:2:gone",
        "n:2:gone",
        *["n:4:both"] * 2,
    ]
    assert told(store, "cluster_node", "node") == ["edge"]


def test_a_day_that_cannot_be_read_is_dropped_all_the_same_and_counted(tmp_path: Path) -> None:
    store = opened(tmp_path)
    day = store.days[20_000]
    rows = store.query("SELECT * FROM process").cast(PROCESS.arrow)
    new = write(day.directory, "process-000009.parquet", PROCESS, rows, ["x"])
    day.segments |= {new.name: new}
    (day.directory / new.name).write_bytes(b"no segment")
    store.drop_day(20_000)
    assert store.losses == {"a dropped day's processes and pods": 1}
    assert (
        sorted(store.days) == [20_008] and store.query(f"SELECT count(*) AS n FROM {KERNEL.name}")["n"][0].as_py() == 5
    )
