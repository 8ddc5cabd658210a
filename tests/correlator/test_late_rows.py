"""Rows of any table may come after all others: what was joined before is joined again where they change it.

Each scene is joined whole, and then once for each of its tables with all of that table's rows coming last, with their first
half, with every third: the results are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.golden import SAMPLES
from tests.simulator.score import toy
from warpline import sample, schema
from warpline.batch import Batch
from warpline.settings import Settings

S, MS = 1_000_000_000, 1_000_000
BASE = 1_700_000_000 * S
RESULTS = ("share", "step_member", "engine_step", "blame", "alias", "edge", "finding", "clock_edge")
Tables = dict[str, pa.Table]


def table(name: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    keys = sorted({key for row in rows for key in row})
    columns = {key: [row.get(key) for row in rows] for key in keys}
    return pa.Table.from_batches([schema.table(name).batch(columns, len(rows))])


def old_connection() -> Tables:
    """Exchanges between two nodes, forty minutes after their connection began, which alone tells its numbers. Every second
    bears an id of its client's, which is worth less until the end of a loss in their midst, of a source that stood still."""
    exchanges, engine = [], []
    for n in range(40):
        name = f"r-{n}" if n % 2 else n
        at = BASE + 2400 * S + n * S // 2
        for side, node, late in (("client", "a", 0), ("server", "b", 40_000)):
            exchanges.append(
                {
                    "side": side,
                    "node": node,
                    "process_uid": f"{node}:1:1",
                    "connection_id": 7,
                    "ordinal": n,
                    "start_ns": at + late,
                    "end_ns": at + late + 9 * MS,
                    "response_start_ns": at + late + 5 * MS,
                    "request_offset_bytes": n * 100,
                    "request_id": f"r-{n}" if n % 2 else None,
                    "response_id": f"cmpl-{name}" if side == "server" else None,
                }
            )
        named = {"internal_id": f"cmpl-{name}-0-0badcafe", "external_id": f"cmpl-{name}-0"}
        engine.append({"start_ns": at + MS, "end_ns": at + 8 * MS, "node": "b", "process_uid": "b:2:2", **named})
    ends = [("a", 11, 22), ("b", 22, 11)]
    connections = [
        {"start_ns": BASE, "node": node, "connection_id": 7, "isn_sent": sent, "isn_received": received}
        for node, sent, received in ends
    ]
    lost = {"start_ns": BASE + 1810 * S, "end_ns": BASE + 2410 * S, "node": "b", "source": "http_exchange", "lost": 1}
    return {
        "http_exchange": table("http_exchange", exchanges),
        "engine_request": table("engine_request", engine),
        "connection": table("connection", connections),
        "loss": table("loss", [{**lost, "reason": "ring full"}]),
    }


def engine(seconds: float, every_ns: int, lasts_ns: int, streams: int = 1, worker: str = "n:1:1") -> Tables:
    """An engine that tells its steps, `worker` running one execution on each stream in each."""
    steps = range(int(seconds * S) // every_ns)
    names = {"node": "n", "process_uid": "n:1:1", "engine_index": 0}
    members, kernels, launches = [], [], []
    for n in steps:
        at = BASE + n * every_ns
        for who in ("r-a", "r-b", "r-c")[: 2 + n % 2]:
            fresh = who == "r-c"
            members.append(
                {
                    **names,
                    "time_ns": at,
                    "step_ordinal": n,
                    "internal_id": who,
                    "scheduled_tokens": 60 if fresh else 1,
                    "computed_before_tokens": 100 + n,
                    "sampled": True,
                    "phase": "prefill" if fresh else "decode",
                    "level": "plugin",
                    "evidence": "exact",
                }
            )
        for stream in range(streams):
            place = {"node": "n", "process_uid": worker, "session": 0, "correlation_id": n * streams + stream}
            launches.append({**place, "start_ns": at, "end_ns": at + 1000, "api": "launch", "step_ordinal": n})
            begin = at + 1000 + stream * every_ns // streams
            shape = {"gpu_uuid": "GPU-0", "cuda_stream": stream, "name": "k", "kind": "kernel", "kernel_class": "gemm"}
            kernels.append({**place, **shape, "start_ns": begin, "end_ns": begin + lasts_ns + 777 * stream})
    return {
        "step_member": table("step_member", members),
        "launch": table("launch", launches),
        "gpu_kernel": table("gpu_kernel", kernels),
    }


def long_executions() -> Tables:
    """Executions of two streams that last up to four seconds, over several stretches of time."""
    return engine(14, 1500 * MS, 3200 * MS, streams=2)


def long_waits() -> Tables:
    """Requests that wait for half a minute while others' steps run."""
    found = engine(40, 200 * MS, 150 * MS)
    waits = [("r-w", 2, 33), ("r-v", 5, 9), ("r-u", 20, 38)]
    events = [
        {"time_ns": BASE + at * S, "node": "n", "process_uid": "n:1:1", "internal_id": who, "kind": kind}
        for who, begin, end in waits
        for at, kind in ((begin, "queued"), (end, "scheduled"))
    ]
    return {**found, "engine_event": table("engine_event", events)}


def workers() -> Tables:
    """Executions of a worker of the engine, which only the table of processes calls so."""
    found = engine(9, 100 * MS, 60 * MS, worker="n:2:2")
    kin = [("n:1:1", "n:9:9"), ("n:2:2", "n:1:1")]
    rows = [{"start_ns": BASE - 9 * S, "node": "n", "process_uid": uid, "parent_uid": parent} for uid, parent in kin]
    return {**found, "process": table("process", rows)}


def watched_twice() -> Tables:
    """An engine whose plugin tells its steps and whose wire is read too."""
    with TemporaryDirectory() as place:
        seen, _ = toy(Path(place), seconds=3, rate=6)
        told, _ = toy(Path(place), seconds=3, rate=6, told="plugin")
    return {**seen, "step_member": told["step_member"], "engine_step": told["engine_step"]}


def by_spans() -> Tables:
    """A scheduler whose trace names its batches."""
    with TemporaryDirectory() as place:
        seen, _ = toy(Path(place), seconds=3, rate=5, told="spans")
    return seen


def of_sample(name: str) -> Tables:
    found: Tables = {}
    for batch in sample.batches(SAMPLES / name, sample.load(SAMPLES / name)):
        rows = pa.Table.from_batches([batch.rows])
        found[batch.table.name] = (
            pa.concat_tables([found[batch.table.name], rows]) if batch.table.name in found else rows
        )
    return found


SCENES = {
    each.__name__: each for each in (old_connection, long_executions, long_waits, workers, watched_twice, by_spans)
} | {"real_prefill": lambda: of_sample("real_prefill")}
LATE = {
    "old_connection": ("connection", "http_exchange", "engine_request", "loss"),
    "long_executions": ("gpu_kernel", "launch", "step_member"),
    "long_waits": ("engine_event", "gpu_kernel", "step_member"),
    "workers": ("process", "gpu_kernel", "launch", "step_member"),
    "watched_twice": ("step_member", "engine_step", "engine_message", "engine_emission", "gpu_kernel", "launch"),
    "by_spans": ("span", "clock_pair", "gpu_kernel", "launch", "http_exchange"),
    "real_prefill": ("engine_event", "gpu_kernel", "gpu_sample", "step_member", "connection", "process"),
}


@cache
def scene(name: str) -> Tables:
    return {table: rows for table, rows in SCENES[name]().items() if len(rows)}


def joined(sent: Sequence[Tables], rebuild: bool = False) -> dict[str, pa.Table]:
    """Return all results after each of `sent` was written and joined in its turn."""
    with TemporaryDirectory() as place:
        store = Store(Settings(state_dir=place, correlator_disk_reserve_mb=0, correlator_memory_limit_mb=512))
        joins = Joins(store.settings, store)
        for number, part in enumerate(sent):
            for name, rows in part.items():
                (batch,) = rows.combine_chunks().to_batches()
                store.write([Batch(schema.table(name), batch, f"{name}/{number}")])
            if not rebuild:
                joins.catch_up()
        if rebuild:
            joins.rebuild()
        found = {name: ordered(store.query(f"SELECT * FROM {name}")) for name in RESULTS}
        store.close()
        return found


def ordered(rows: pa.Table) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in rows.column_names]).combine_chunks()


@cache
def whole(name: str) -> dict[str, pa.Table]:
    return joined([scene(name)], rebuild=True)


def orders(name: str, late: str) -> Iterator[list[Tables]]:
    """Yield the scene with the rows of one table last: all of them, the first half, and every third one apart."""
    rest, rows = {table: rows for table, rows in scene(name).items() if table != late}, scene(name)[late]
    yield [rest, {late: rows}]
    time = np.asarray(rows[schema.table(late).time].to_numpy())
    for apart in (time < np.median(time), np.arange(len(time)) % 3 == 1):
        if apart.any() and not apart.all():
            yield [{**rest, late: rows.filter(pa.array(~apart))}, {late: rows.filter(pa.array(apart))}]


@pytest.mark.parametrize(("name", "late"), [(name, late) for name, tables in LATE.items() for late in tables])
def test_rows_of_a_table_that_come_last_change_what_they_would_have_been(name: str, late: str) -> None:
    expected = whole(name)
    for number, sent in enumerate(orders(name, late)):
        found = joined(sent)
        for result in RESULTS:
            assert found[result].equals(expected[result]), (result, number)


def test_each_scene_has_what_it_is_about() -> None:
    assert set(whole("old_connection")["edge"]["rule"].to_pylist()) >= {"sequence_numbers"}
    assert len(whole("old_connection")["clock_edge"]) > 0
    served = [e["evidence"] for e in whole("old_connection")["edge"].to_pylist() if e["relation"] == "served_by"]
    assert (served.count("derived"), served.count("exact")) == (10, 30)
    lasted = whole("long_executions")["share"]
    union = sum(lasted["busy_ns"].to_pylist())
    assert 14 * S < union < sum(lasted["share_ns"].to_pylist())
    waits = whole("long_waits")["blame"].filter(pa.compute.equal(whole("long_waits")["blame"]["kind"], "queue"))
    assert len(set(waits["start_ns"].to_pylist())) >= 36
    assert set(whole("workers")["share"]["owner"].to_pylist()) == {"r-a", "r-b", "r-c"}
    assert set(whole("watched_twice")["step_member"]["level"].to_pylist()) == {"plugin"}
    assert set(whole("by_spans")["step_member"]["level"].to_pylist()) == {"batches"}


def test_busy_time_sums_to_the_time_that_the_gpu_was_busy() -> None:
    kernels = scene("long_executions")["gpu_kernel"]
    begins, ends = (np.asarray(kernels[c].to_numpy()) for c in ("start_ns", "end_ns"))
    order = np.argsort(begins)
    reach = np.maximum.accumulate(ends[order])
    gaps = np.maximum(begins[order][1:] - reach[:-1], 0).sum()
    assert sum(whole("long_executions")["share"]["busy_ns"].to_pylist()) == reach[-1] - begins.min() - gaps
