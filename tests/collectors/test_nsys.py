from __future__ import annotations

import gzip
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from collectors import kineto, nsys
from collectors.recordings import assemble
from tests.collectors.reading import context, read
from warpline.errors import SourceError

REAL_FILES = ("h100_2gpu_1s.sqlite.gz", "mfu_2gpu_after.sqlite.gz", "mock.sqlite.gz")
TOKEN = "sk-" + "Zy9" * 12


def real(shared_data: Path, name: str) -> Path:
    path = shared_data / "nsys" / name
    if not path.exists():
        pytest.skip(f"no {name} among the real recordings")
    return path


def tables_of(path: Path, tmp_path: Path) -> sqlite3.Connection:
    plain = tmp_path / "plain.sqlite"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    return sqlite3.connect(plain)


@pytest.mark.parametrize("name", REAL_FILES)
def test_executions_of_a_real_report_equal_a_count_made_straight_from_its_tables(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    path = real(shared_data, name)
    database = tables_of(path, tmp_path)
    found = read(nsys, path, tmp_path).rows("gpu_kernel")
    begun = database.execute("SELECT utcEpochNs FROM TARGET_INFO_SESSION_START_TIME").fetchone()[0]
    present = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    for kind, table in {"kernel": "KERNEL", "memcpy": "MEMCPY", "memset": "MEMSET"}.items():
        if f"CUPTI_ACTIVITY_KIND_{table}" not in present:
            continue
        raw = database.execute(
            f"SELECT start + {begun}, end + {begun}, globalPid / 16777216 % 16777216, correlationId, streamId, deviceId "
            f"FROM CUPTI_ACTIVITY_KIND_{table}"
        ).fetchall()
        rows = [row for row in found.to_pylist() if row["kind"] == kind]
        got = Counter(
            (r["start_ns"], r["end_ns"], int(r["process_uid"].split(":")[-1]), r["correlation_id"], r["cuda_stream"])
            for r in rows
        )
        assert got == Counter(row[:5] for row in raw)
    database.close()


@pytest.mark.parametrize("name", REAL_FILES)
def test_joining_on_process_and_correlation_id_never_yields_more_rows_than_executions(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    path = real(shared_data, name)
    found = read(nsys, path, tmp_path)
    launch, gpu_kernel = found.rows("launch"), found.rows("gpu_kernel")
    joined = duckdb.sql("SELECT count(*) FROM gpu_kernel JOIN launch USING (process_uid, correlation_id)").fetchall()[
        0
    ][0]
    database = tables_of(path, tmp_path)
    pid = "{0} / 16777216 % 16777216"
    expected = 0
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE name GLOB 'CUPTI_ACTIVITY_KIND_[KM][E]*'"):
        expected += database.execute(
            f"SELECT count(*) FROM {table} AS gpu WHERE EXISTS (SELECT 1 FROM CUPTI_ACTIVITY_KIND_RUNTIME AS call WHERE "
            f"{pid.format('call.globalTid')} = {pid.format('gpu.globalPid')} AND call.correlationId = gpu.correlationId)"
        ).fetchone()[0]
    database.close()
    assert joined == expected <= gpu_kernel.num_rows
    assert launch.num_rows + annotations(found, "cuda_api") == count_of(path, tmp_path, "CUPTI_ACTIVITY_KIND_RUNTIME")
    if name != "mock.sqlite.gz":
        assert annotations(found, "nvtx") == count_of(path, tmp_path, "NVTX_EVENTS")


def test_a_recording_that_is_matched_in_parts_gives_the_same_rows(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = real(shared_data, "mfu_2gpu_after.sqlite.gz")
    whole = read(nsys, path, tmp_path)
    monkeypatch.setattr(assemble, "MATCHED_TOGETHER", 997)
    parts = read(nsys, path, tmp_path)
    for table in ("launch", "gpu_kernel", "gpu_kernel_detail", "annotation"):
        assert whole.rows(table).num_rows > 0
        rows = [sorted(map(repr, found.rows(table).to_pylist())) for found in (whole, parts)]
        assert rows[0] == rows[1]


def annotations(found: Any, kind: str) -> int:
    return found.rows("annotation")["kind"].to_pylist().count(kind)


def count_of(path: Path, tmp_path: Path, table: str) -> int:
    database = tables_of(path, tmp_path)
    count = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    database.close()
    return int(count)


def test_two_processes_with_the_same_correlation_ids_keep_their_own_launches(tmp_path: Path) -> None:
    path = report(tmp_path, calls=[call(1, 11), call(2, 11)], kernels=[kernel(1, 11), kernel(2, 11), kernel(3, 11)])
    found = read(nsys, path, tmp_path)
    launch, gpu_kernel = found.rows("launch"), found.rows("gpu_kernel")
    assert launch.num_rows == 2
    joined = duckdb.sql("SELECT count(*) FROM gpu_kernel JOIN launch USING (process_uid, correlation_id)").fetchall()
    assert joined == [(2,)]
    assert {row["process_uid"].split(":")[-1] for row in gpu_kernel.to_pylist()} == {"1", "2", "3"}


BEGUN = 1_779_630_014_975_716_426
STRINGS = {
    1: "cudaLaunchKernel_v7000",
    2: "void gemm_kernel<float>(int)",
    3: "gemm_kernel",
    4: "cudaGraphLaunch_v10000",
}


def identifier(pid: int, thread: int = 0) -> int:
    return (1 << 48) | (pid << 24) | thread


def call(pid: int, correlation: int, start: int = 100, name: int = 1) -> tuple[Any, ...]:
    return (start, start + 50, identifier(pid, 77), correlation, name, 0)


def kernel(pid: int, correlation: int, start: int = 200, end: int = 1200) -> tuple[Any, ...]:
    return (start, end, 0, 1, 7, correlation, identifier(pid), 2, 3)


def report(
    tmp_path: Path,
    calls: Iterable[tuple[Any, ...]] = (),
    kernels: Iterable[tuple[Any, ...]] = (),
    graphs: Iterable[tuple[Any, ...]] = (),
    ranges: Iterable[tuple[Any, ...]] = (),
    more: str = "",
) -> Path:
    """A hand-written export with the fewest columns that tell a story, as a much older or newer version might have."""
    path = tmp_path / "report.sqlite"
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE StringIds (id INTEGER, value TEXT);"
        "CREATE TABLE META_DATA_EXPORT (name TEXT, value TEXT);"
        "CREATE TABLE META_DATA_CAPTURE (name TEXT, value TEXT);"
        "CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER);"
        f"INSERT INTO TARGET_INFO_SESSION_START_TIME VALUES ({BEGUN});"
        "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start, end, globalTid, correlationId, nameId, returnValue);"
        "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL "
        "(start, end, deviceId, contextId, streamId, correlationId, globalPid, demangledName, shortName);"
        "CREATE TABLE NVTX_EVENTS (start, end, eventType, text, textId, globalTid);" + more
    )
    database.executemany("INSERT INTO StringIds VALUES (?, ?)", STRINGS.items())
    database.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, ?, ?)", calls)
    database.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", kernels)
    database.executemany("INSERT INTO NVTX_EVENTS VALUES (?, ?, ?, ?, ?, ?)", ranges)
    if graphs:
        database.execute(
            "CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE "
            "(start, end, deviceId, contextId, streamId, correlationId, globalPid, graphId)"
        )
        database.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (?, ?, ?, ?, ?, ?, ?, ?)", graphs)
    database.commit()
    database.close()
    return path


def test_times_are_the_sessions_utc_time_plus_the_time_in_it(tmp_path: Path) -> None:
    found = read(nsys, report(tmp_path, [call(1, 11)], [kernel(1, 11)]), tmp_path)
    row = found.rows("gpu_kernel").to_pylist()[0]
    assert (row["start_ns"], row["end_ns"]) == (BEGUN + 200, BEGUN + 1200)
    assert (row["name"], row["kernel_class"]) == ("void gemm_kernel<float>(int)", "gemm")
    launch = found.rows("launch").to_pylist()[0]
    assert (launch["api"], launch["thread_id"], launch["result"]) == ("cudaLaunchKernel", 77, 0)


def test_an_nvtx_range_of_an_engine_becomes_a_step_that_owns_its_kernels(tmp_path: Path) -> None:
    name = "execute_context_2(600)_generation_5(5)"
    ranges = [(90, 400, 59, name, None, identifier(1, 77)), (10, None, 34, "mark", None, identifier(1, 77))]
    path = report(tmp_path, [call(1, 11), call(1, 12, 500)], [kernel(1, 11), kernel(1, 12)], ranges=ranges)
    found = read(nsys, path, tmp_path)
    (step,) = found.rows("engine_step").to_pylist()
    assert (step["requests"], step["context_tokens"], step["generation_tokens"]) == (7, 600, 5)
    assert found.rows("gpu_kernel")["step_ordinal"].to_pylist() == [0, None]
    assert found.summary["not_kept"] == {"NVTX marks, definitions and ranges left open": 1}


def test_a_graph_recorded_as_a_whole_is_one_execution_of_kind_graph(tmp_path: Path) -> None:
    graph = (300, 5300, 0, 1, 7, 21, identifier(1), 9)
    path = report(
        tmp_path,
        [call(1, 21, name=4)],
        graphs=[graph],
        more="INSERT INTO META_DATA_CAPTURE VALUES ('CUDA_GRAPH_TRACE_OPTIONS:MODE', 'Graph');",
    )
    found = read(nsys, path, tmp_path)
    row = found.rows("gpu_kernel").to_pylist()[0]
    assert (row["kind"], row["graph_id"], row["kernel_class"], row["end_ns"] - row["start_ns"]) == (
        "graph",
        9,
        None,
        5000,
    )
    assert found.summary["gpus"]["GPU 0"]["busy_ns"] == 5000
    assert any("as a whole" in note for note in found.summary["notes"])


def test_rows_with_impossible_times_are_counted_and_marked(tmp_path: Path) -> None:
    kernels = [kernel(1, 11), kernel(1, 12, 900, 100), kernel(1, 13, None), kernel(1, 14, 10, None)]  # type: ignore[arg-type]
    found = read(nsys, report(tmp_path, [call(1, 11)], kernels), tmp_path)
    assert found.rows("gpu_kernel")["validity"].to_pylist() == [None, "reversed", "no_time"]
    assert found.summary["not_understood"] == {
        "row of CUPTI_ACTIVITY_KIND_KERNEL that ends before it begins": 1,
        "row of CUPTI_ACTIVITY_KIND_KERNEL without a time": 1,
    }
    assert found.summary["kernel_ns"] == 1000


def test_a_gpu_is_named_by_its_uuid_where_the_report_tells_it(tmp_path: Path) -> None:
    more = (
        "CREATE TABLE TARGET_INFO_GPU (id, name, uuid); INSERT INTO TARGET_INFO_GPU VALUES (4, 'H100', '554a-88');"
        "CREATE TABLE TARGET_INFO_CUDA_DEVICE (gpuId, cudaId, pid); INSERT INTO TARGET_INFO_CUDA_DEVICE VALUES (4, 0, 1);"
    )
    found = read(nsys, report(tmp_path, [call(1, 11)], [kernel(1, 11), kernel(2, 11)], more=more), tmp_path)
    assert found.rows("gpu_kernel")["gpu_uuid"].to_pylist() == ["GPU-554a-88", "0"]
    assert found.summary["about"]["devices"] == {"H100": 1}


def test_an_environment_is_never_read_and_its_size_is_reported(tmp_path: Path) -> None:
    more = (
        f"INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:ENVIRONMENT_VARIABLE', 'OPENAI_API_KEY={TOKEN}');"
        f"INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:ENVIRONMENT_VARIABLE', 'HOME=/home/x');"
        f"CREATE TABLE TARGET_INFO_SYSTEM_ENV (name, value); "
        f"INSERT INTO TARGET_INFO_SYSTEM_ENV VALUES ('DeviceEnvironment', 'KEY={TOKEN}');"
        f"INSERT INTO StringIds VALUES (900, 'OPENAI_API_KEY={TOKEN}');"
    )
    ranges = [(90, 400, 59, f"login token={TOKEN}", None, identifier(1, 77))]
    found = read(nsys, report(tmp_path, [call(1, 11)], [kernel(1, 11)], ranges=ranges, more=more), tmp_path)
    everything = json.dumps([batch.rows.to_pydict() for batch in found.batches + found.losses], default=str)
    assert TOKEN not in everything and "login token=" in everything
    assert found.summary["removed"] == {"environment variables": 2, "environment dumps": 1, "secrets in names": 1}


def test_foreign_and_damaged_databases_are_refused_with_a_sentence(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.sqlite"
    database = sqlite3.connect(foreign)
    database.execute("CREATE TABLE people (name TEXT)")
    database.commit()
    database.close()
    whole = report(tmp_path, [call(1, n) for n in range(3000)], [kernel(1, n) for n in range(3000)]).read_bytes()
    cut = tmp_path / "cut.sqlite"
    cut.write_bytes(whole[: len(whole) // 2])
    text = tmp_path / "text.sqlite"
    text.write_text("not a database")
    truncated = tmp_path / "cut.sqlite.gz"
    truncated.write_bytes(gzip.compress(whole)[:20_000])
    for path, sentence in (
        (foreign, "another program"),
        (cut, "SQLite says"),
        (text, "not a SQLite"),
        (truncated, "too early"),
    ):
        yielded = []
        with pytest.raises(SourceError, match=sentence):
            for batch in nsys.read(path, context(tmp_path, [])):
                yielded.append(batch)  # noqa: PERF402  # what came before the error is the point
        assert not yielded
    assert not nsys.recognises(foreign) and not nsys.recognises(text)


def test_a_report_is_recognised_by_its_tables_and_by_no_other_reader(tmp_path: Path) -> None:
    path = report(tmp_path)
    assert nsys.recognises(path) and not kineto.recognises(path)


def test_a_report_without_a_session_time_is_put_at_the_files_own(tmp_path: Path) -> None:
    path = report(tmp_path, [call(1, 11)], [kernel(1, 11)], more="DELETE FROM TARGET_INFO_SESSION_START_TIME;")
    recording = read(nsys, path, tmp_path).recording
    assert recording["end_ns"] == path.stat().st_mtime_ns and recording["clock"].startswith("unknown")
