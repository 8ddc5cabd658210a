"""Step ledgers from batches that engines name: SGLang's own spans (data/make_sglang_trace.py), Triton's own trace files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from collectors import triton
from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.collectors.reading import read
from tests.correlator.data.make_sglang_trace import RIDS
from warpline import otlp, schema
from warpline.batch import Batch
from warpline.settings import Settings

TRACE = Path(__file__).parent / "data" / "sglang_trace.otlp"
A, B, C = RIDS
MS = 1_000_000
AHEAD = 5_000 * MS
"""What the wall clock is ahead of node time."""
THREAD = 25057
"""The scheduler's, in the recorded trace."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(state_dir=str(tmp_path / "state"), correlator_disk_reserve_mb=0))
    yield made
    made.close()


def rows(table: str, columns: dict[str, Any], count: int) -> Batch:
    return Batch(schema.table(table), schema.table(table).batch({"node": "n1", **columns}, count), f"{table}/{count}")


def spans(without: str = "") -> pa.Table:
    """SGLang's spans, without those whose attributes hold `without`."""
    found = otlp.decode("traces", TRACE.read_bytes(), "application/x-protobuf").batches
    table = pa.Table.from_batches([b.rows for b in found if b.table.name == "span"])
    keep = [not without or without not in (a or "") for a in table["attributes"].to_pylist()]
    return table.filter(pa.array(keep))


def scheduled(table: pa.Table) -> list[int]:
    """When the scheduler made each batch, by its wall clock."""
    events = [e for text in table["events"].to_pylist() if text for e in json.loads(text)]
    return sorted({e["time_ns"] for e in events if e["name"] == "schedule"})


def executions(begins: list[int], process: str = "n1:1:9", thread: int = THREAD) -> list[Batch]:
    """Work as the scheduler's process gives the GPU after each of `begins`: tokens in, 600 µs of matrices, tokens out."""
    cuts = ((200, 210, "memcpy"), (220, 820, "kernel"), (830, 840, "memcpy"))
    ran = [(at + low * 1000, at + high * 1000, kind) for at in begins for low, high, kind in cuts]
    start, end, kind = zip(*ran, strict=True)
    same = {"process_uid": process, "session": 0, "correlation_id": np.arange(len(ran))}
    launched = {"start_ns": np.array(start) - 100_000, "end_ns": np.array(start) - 95_000, "thread_id": thread}
    kernel = {"start_ns": start, "end_ns": end, "kind": kind, "kernel_class": "gemm", "gpu_uuid": f"GPU of {process}"}
    return [
        rows("launch", {**launched, "api": "cudaLaunchKernel", **same}, len(ran)),
        rows("gpu_kernel", {**kernel, **same}, len(ran)),
    ]


def put(store: Store, *batches: Batch) -> None:
    for number, batch in enumerate(batches):
        store.write([Batch(batch.table, batch.rows, f"{batch.batch_id}/{number}")])


def put_sglang(store: Store, table: pa.Table) -> None:
    begins = [at - AHEAD for at in scheduled(spans())]
    reading = {"time_ns": begins[0], "monotonic_ns": 0, "boottime_ns": 0, "realtime_ns": begins[0] + AHEAD}
    clock = rows("clock_pair", {**reading, "boot_id": "1", "half_width_ns": 100}, 1)
    put(store, clock, *executions(begins), Batch(schema.table("span"), table.combine_chunks().to_batches()[0], "span"))


def members(store: Store) -> list[tuple[Any, ...]]:
    sql = """SELECT dense_rank() OVER (ORDER BY time_ns) - 1 AS step, internal_id, scheduled_tokens, computed_before_tokens,
        phase, evidence FROM step_member WHERE level IN ('batches', 'windows') ORDER BY ALL"""
    return [tuple(row.values()) for row in store.query(sql).to_pylist()]


def given(store: Store) -> dict[str, int]:
    found = store.query("SELECT owner, sum(share_ns)::BIGINT AS ns FROM share GROUP BY owner").to_pylist()
    return {row["owner"]: row["ns"] for row in found}


def test_sglangs_batch_ids_say_who_was_in_each_step(store: Store) -> None:
    put_sglang(store, spans())
    Joins(store.settings, store).rebuild()
    assert members(store) == [
        (0, A, 100, 0, "prefill", "derived"),
        (1, A, 1, 100, "decode", "derived"),
        (
            2,
            C,
            450,
            0,
            "prefill",
            "estimated",
        ),  # Half of 900, as it was in two batches: the sizes of chunks are not told.
        (2, B, 44, 16, "prefill", "derived"),  # 60, of which the cache had 16.
        (3, A, 1, 101, "decode", "derived"),
        (3, B, 1, 60, "decode", "derived"),
        (4, C, 450, 450, "prefill", "estimated"),
        (5, A, 1, 102, "decode", "derived"),
        (5, C, 1, 900, "decode", "derived"),
        (5, B, 1, 61, "decode", "derived"),
        (6, A, 1, 103, "decode", "derived"),
        (6, C, 1, 901, "decode", "derived"),
        (6, B, 1, 62, "decode", "derived"),
        (7, A, 1, 104, "decode", "derived"),
        (7, B, 1, 63, "decode", "derived"),
        (8, C, 903, 0, "recompute", "estimated"),  # Retracted: its prompt and the three tokens that it had got.
        (9, A, 1, 105, "decode", "derived"),
        (9, C, 1, 903, "decode", "derived"),
        (9, B, 1, 64, "decode", "derived"),
    ]
    found = given(store)
    assert set(found) == {A, B, C}
    assert sum(found.values()) == 10 * 620_000


def test_the_time_of_a_member_whose_span_was_lost_goes_to_nobody(store: Store) -> None:
    put_sglang(store, spans(without=f'"rid":"{B}"'))
    Joins(store.settings, store).rebuild()
    assert B not in {row[1] for row in members(store)}
    step = store.query(
        "SELECT owner, share_ns FROM share WHERE step_ordinal = (SELECT max(step_ordinal) FROM share) ORDER BY owner"
    )
    assert {r["owner"] for r in step.to_pylist()} == {A, C, "__unattributed__"}
    assert all(206_666 <= r["share_ns"] <= 206_667 for r in step.to_pylist())
    assert sum(given(store).values()) == 10 * 620_000


def test_a_thread_number_that_two_processes_have_names_neither(store: Store) -> None:
    put_sglang(store, spans())
    put(store, *executions([at - AHEAD for at in scheduled(spans())], process="n2:1:9"))
    Joins(store.settings, store).rebuild()
    assert members(store) == []
    assert set(given(store)) == {"__unattributed__"}


def test_only_the_process_whose_thread_it_is_gets_the_batches(store: Store) -> None:
    put_sglang(store, spans())
    put(store, *executions([at - AHEAD for at in scheduled(spans())], process="n1:1:10", thread=THREAD + 1))
    Joins(store.settings, store).rebuild()
    assert set(store.query("SELECT process_uid FROM step_member")["process_uid"].to_pylist()) == {"n1:1:9"}
    assert given(store)["__unattributed__"] == 10 * 620_000


def test_a_step_whose_batch_was_lost_whole_goes_to_nobody(store: Store) -> None:
    table = spans()
    lost = scheduled(table)[7]  # The one of A and B alone.
    table = table.filter(pa.array([str(lost) not in (e or "") for e in table["events"].to_pylist()]))
    put_sglang(store, table)
    Joins(store.settings, store).rebuild()
    assert len({row[0] for row in members(store)}) == 9
    assert given(store)["__unattributed__"] == 620_000


def test_neither_order_nor_batching_changes_the_ledger_of_batches(store: Store) -> None:
    table = spans()
    begins = [at - AHEAD for at in scheduled(table)]
    joins = Joins(store.settings, store)
    for number, part in enumerate(np.array_split(np.random.default_rng(3).permutation(len(table)), 4)):
        some = table.take(pa.array(part)).combine_chunks().to_batches()[0]
        put(store, Batch(schema.table("span"), some, f"span {number}"))
        joins.catch_up()
    reading = {"time_ns": begins[0], "monotonic_ns": 0, "boottime_ns": 0, "realtime_ns": begins[0] + AHEAD}
    for batch in (*executions(begins)[::-1], rows("clock_pair", {**reading, "boot_id": "1", "half_width_ns": 100}, 1)):
        put(store, batch)
        joins.catch_up()
    step_by_step = members(store)
    joins.rebuild()
    assert step_by_step == members(store)
    assert len(step_by_step) == 19


def stamped(number: int, begin: int, end: int, **more: Any) -> list[dict[str, Any]]:
    """What Triton's trace file says of one request: the backend's four times, the same for all of its batch."""
    names = ("COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END")
    times = (begin, begin + 50_000, end - 50_000, end)
    stamps = [{"name": "REQUEST_START", "ns": begin - 100_000 - number}, {"name": "QUEUE_START", "ns": begin - 90_000}]
    stamps += [{"name": n, "ns": ns} for n, ns in zip(names, times, strict=True)]
    told = {"id": number, "model_name": "classifier", "model_version": 1, **more}
    return [told, *({"id": number, "timestamps": [stamp]} for stamp in stamps)]


def triton_file(path: Path, base: int) -> Path:
    """Three requests in one batch, then one alone, then two that overlap; two of the first bear the same request id."""
    objects = [
        *stamped(1, base, base + MS, request_id="same"),
        *stamped(2, base, base + MS, request_id="same"),
        *stamped(3, base, base + MS),
        *stamped(4, base + 2 * MS, base + 3 * MS, request_id="alone"),
        *stamped(5, base + 4 * MS, base + 5 * MS, request_id="one"),
        *stamped(6, base + 4 * MS + 1000, base + 5 * MS, request_id="other"),
    ]
    path.write_text(json.dumps(objects))
    return path


def test_requests_whose_compute_stamps_coincide_were_one_batch(store: Store, tmp_path: Path) -> None:
    base = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - 10 * MS
    found = read(triton, triton_file(tmp_path / "trace.json", base), tmp_path)
    begins = sorted(
        set(found.rows("engine_phase").filter(pa.compute.field("phase") == "compute_input")["start_ns"].to_pylist())
    )
    node = json.loads(found.rows("engine_phase")["details"][0].as_py())["node"]
    work = executions([at for at in begins if (at - begins[0]) % MS == 0])
    for batch in work:
        place = batch.rows.schema.get_field_index("node")
        named = pa.array([node] * len(batch.rows)).cast(batch.rows.schema.field("node").type)
        put(store, Batch(batch.table, batch.rows.set_column(place, "node", named), batch.batch_id))
    put(store, *(Batch(b.table, b.rows, f"triton {n}") for n, b in enumerate(found.batches)))
    Joins(store.settings, store).rebuild()
    told = [row[:3] for row in members(store)]
    assert told == [(0, "3", 1), (0, "same#1", 1), (0, "same#2", 1), (1, "alone", 1)]
    assert {row[5] for row in members(store)} == {"derived"}
    shares = given(store)
    assert shares["alone"] == 620_000 and abs(shares["3"] - shares["same#1"]) <= 1
    assert shares["__unattributed__"] == 620_000  # Where two windows overlap, whose an execution is cannot be told.
    evidence = store.query("SELECT DISTINCT evidence FROM share WHERE owner NOT LIKE '\\_\\_%' ESCAPE '\\'").to_pylist()
    assert evidence == [{"evidence": "estimated"}]  # Triton may have traced only some of a batch.


def test_a_triton_trace_of_another_boot_is_held_against_no_execution(store: Store, tmp_path: Path) -> None:
    found = read(triton, triton_file(tmp_path / "trace.json", 5_000_000), tmp_path)
    begin = min(found.rows("engine_phase")["start_ns"].to_pylist())
    put(store, *executions([begin + 100_000]), *(Batch(b.table, b.rows, f"t{n}") for n, b in enumerate(found.batches)))
    Joins(store.settings, store).rebuild()
    assert members(store) == []


def test_tritons_spans_tell_the_same_by_the_wall_clock(store: Store) -> None:
    base = 1_700_000_000_000 * MS
    told: dict[str, list[Any]] = {
        name: [] for name in ("trace_id", "span_id", "attributes", "events", "start_ns", "end_ns")
    }
    for number, begin in ((1, base), (2, base), (3, base + 2 * MS)):
        names = ("COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END")
        times = (begin, begin + 50_000, begin + MS - 50_000, begin + MS)
        events = [{"time_ns": AHEAD + t, "name": n} for n, t in zip(names, times, strict=True)]
        values = (
            number.to_bytes(16, "big"),
            number,
            json.dumps({"triton.model_name": "m", "triton.request_id": f"r{number}"}),
        )
        for name, value in zip(told, (*values, json.dumps(events), begin + AHEAD, begin + AHEAD + MS), strict=True):
            told[name].append(value)
    reading = {"time_ns": base, "monotonic_ns": 0, "boottime_ns": 0, "realtime_ns": base + AHEAD}
    clock = rows("clock_pair", {**reading, "boot_id": "1", "half_width_ns": 100}, 1)
    span = schema.table("span").batch({**told, "name": "compute", "scope": "triton-server"}, 3)
    put(store, clock, *executions([base, base + 2 * MS]), Batch(schema.table("span"), span, "span"))
    Joins(store.settings, store).rebuild()
    assert [row[:2] for row in members(store)] == [(0, "r1"), (0, "r2"), (1, "r3")]
    assert given(store) == {"r1": 310_000, "r2": 310_000, "r3": 620_000}
