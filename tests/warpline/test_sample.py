"""Sample traces: written, read, moved in time, made fit to be published; those of the project give their golden rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests import golden
from warpline import recording, sample, schema
from warpline.errors import SchemaError, SourceError

SYSCALL, PROCESS, PAIR = (schema.table(name) for name in ("syscall", "process", "clock_pair"))
NOON = 1_728_043_200_000_000_000

DURATIONS = {
    "longest_gap_ns", "clock_error_ns", "half_width_ns", "realtime_error_ns", "latency_ns", "upstream_ns", "busy_ns",
    "kernel_ns", "total_ns", "longest_ns", "runqueue_ns", "smoothed_rtt_ns", "time_namespace_offset_ns",
    "share_ns", "delay_ns", "error_low_ns", "error_high_ns", "low_ns", "high_ns",
}  # fmt: skip
SINCE_BOOT = {"monotonic_ns", "boottime_ns"}


def table(of: schema.Table, **columns: object) -> pa.Table:
    return pa.Table.from_batches([of.batch(columns)])


def written(directory: Path) -> sample.Manifest:
    times = [NOON + 2, NOON, NOON + 1]
    return sample.write(directory, {"syscall": table(SYSCALL, start_ns=times, node="n", name=["c", "a", "b"])}, "three")


def test_what_is_written_is_read_again_in_the_order_of_time(tmp_path: Path) -> None:
    written(tmp_path / "case")
    found = sample.load(tmp_path / "case")
    (batch,) = sample.batches(tmp_path / "case", found)
    assert batch.rows["name"].to_pylist() == ["a", "b", "c"] and batch.rows.schema.equals(SYSCALL.arrow)
    assert (found.name, found.start_ns, found.end_ns, found.rows) == ("case", NOON, NOON + 3, {"syscall": 3})


def test_moments_move_and_durations_stay(tmp_path: Path) -> None:
    row = {"time_ns": [NOON], "node": "n", "boot_id": "b", "monotonic_ns": 5, "boottime_ns": 6, "realtime_ns": NOON}
    sample.write(tmp_path, {"clock_pair": table(PAIR, half_width_ns=7, **row)})
    (batch,) = sample.batches(tmp_path, sample.load(tmp_path), shift_ns=100)
    (moved,) = batch.rows.to_pylist()
    assert moved["time_ns"] == moved["realtime_ns"] == NOON + 100
    assert (moved["monotonic_ns"], moved["boottime_ns"], moved["half_width_ns"], moved["tai_ns"]) == (5, 6, 7, None)


def test_every_column_in_ns_is_known_to_move_or_to_stay() -> None:
    named = {c.name for t in schema.TABLES for c in t.columns if c.name.endswith("_ns") or "_ns_of_" in c.name}
    unknown = named - sample.MOMENTS - DURATIONS - SINCE_BOOT
    assert not unknown, "say of each whether it moves with node time: in sample.MOMENTS, or here"


def test_what_is_published_names_no_strangers_and_no_paths(tmp_path: Path) -> None:
    processes = table(
        PROCESS, start_ns=[1, 2], node="n", process_uid=["n:1:1", "n:2:2"], executable=["/home/me/bin/server", "/bin/x"],
        arguments=["--key secret", None], cgroup_path="/user/me",
    )  # fmt: skip
    calls = table(SYSCALL, start_ns=[3], node="n", name="read", process_uid="n:1:1")
    told = recording.anonymous([(SYSCALL, [calls]), (PROCESS, [processes])])
    rows = {table.name: pa.concat_tables(parts) for table, parts in told}
    (row,) = rows["process"].to_pylist()
    assert (row["process_uid"], row["executable"], row["arguments"], row["cgroup_path"]) == (
        "n:1:1",
        "server",
        None,
        None,
    )


def test_trace_ids_come_back_from_their_texts() -> None:
    exchange = schema.table("http_exchange")
    texts = pa.array(["00112233-4455-6677-8899-aabbccddeeff", None])
    told = pa.table({"start_ns": [1, 2], "node": ["n", "n"], "side": ["client", "server"], "trace_id": texts})
    found = recording.as_declared(exchange, told)["trace_id"].combine_chunks().storage
    assert found.to_pylist() == [bytes.fromhex("00112233445566778899aabbccddeeff"), None]


def test_what_is_no_sample_trace_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="give the directory of a sample trace"):
        sample.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "warpline-sample-trace", "version": 99, "schema_version": 1}')
    with pytest.raises(SourceError, match="version 99"):
        sample.load(tmp_path)
    with pytest.raises(SourceError, match="there are no rows"):
        sample.write(tmp_path, {})
    with pytest.raises(SchemaError, match="not as declared"):
        sample.write(tmp_path, {"syscall": pa.table({"start_ns": [1]})})
    found = written(tmp_path / "case")
    (tmp_path / "case" / "syscall.parquet").write_bytes(b"PAR1 nothing of the kind PAR1")
    with pytest.raises(SourceError, match="is not whole"):
        list(sample.batches(tmp_path / "case", found))


@pytest.mark.parametrize("case", golden.cases(), ids=lambda case: str(case.name))
def test_the_sample_traces_give_their_golden_rows(case: Path) -> None:
    expected = sample.load(case).expected
    assert expected, "a sample trace without golden rows proves nothing"
    for view, text in golden.rows(case):
        assert text == (case / "expected" / f"{view}.csv").read_text(), f"{case.name}: {view}: see make golden"


def test_the_reference_of_all_tables_is_current() -> None:
    assert golden.SCHEMA_PAGE.read_text() == schema.markdown(), "run make golden"


@pytest.mark.parametrize("case", golden.cases(), ids=lambda case: str(case.name))
def test_no_sample_trace_holds_a_path_of_the_machine_that_it_was_made_on(case: Path) -> None:
    for batch in sample.batches(case, sample.load(case)):
        if batch.table is PROCESS:
            told = [value for value in batch.rows["executable"].to_pylist() if value]
            assert not [value for value in told if "/" in value]
