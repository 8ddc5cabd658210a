from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import kineto
from tests.collectors.reading import context, read
from warpline.errors import SourceError

GPU_CATEGORIES = {"kernel", "gpu_memcpy", "gpu_memset"}


def event(category: str, name: str, ts: Any, dur: Any, **args: Any) -> dict[str, Any]:
    device = category in GPU_CATEGORIES
    return {"ph": "X", "cat": category, "name": name, "pid": 0 if device else 4242, "tid": 7 if device else 4243,
            "ts": ts, "dur": dur, "args": args}  # fmt: skip


def trace_of(events: list[Any], **metadata: Any) -> dict[str, Any]:
    return {"schemaVersion": 1, **metadata, "traceEvents": events}


def write(tmp_path: Path, trace: Any, name: str = "rank-3.pt.trace.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(trace))
    return path


BASE = 1_767_189_312_000_000_000
PAIR = [
    event("cuda_runtime", "cudaLaunchKernel", 10.125, 4.5, correlation=11),
    event(
        "kernel",
        "gemm_128x128",
        20.001,
        7.333,
        correlation=11,
        device=2,
        stream=7,
        context=1,
        grid=[8, 1, 1],
        block=[64, 1, 1],
    ),
]


def test_the_fixture_of_this_repository_is_read_whole(root: Path, tmp_path: Path) -> None:
    found = read(kineto, root / "tests/collectors/data/kineto_small.json", tmp_path)
    assert {name: rows.num_rows for name, rows in found.tables.items()} == {
        "launch": 3, "gpu_kernel": 5, "gpu_kernel_detail": 2, "annotation": 5, "engine_step": 2, "recording": 1,
    }  # fmt: skip
    steps = found.rows("engine_step").to_pylist()
    assert [(s["ordinal"], s["requests"], s["context_tokens"], s["generation_tokens"]) for s in steps] == [
        (0, 3, 512, 2),
        (1, 3, 0, 3),
    ]
    kernels = found.rows("gpu_kernel").to_pylist()
    assert [k["step_ordinal"] for k in kernels] == [0, 1, 1, 1, None]
    assert [k["graph_node_id"] for k in kernels] == [None, 5, 6, 7, None]
    assert kernels[4]["moved_bytes"] == 4096 and kernels[4]["kernel_class"] == "memory"


@pytest.mark.parametrize(
    ("base", "ts", "expected"),
    [
        (BASE, 10.125, BASE + 10_125),
        (BASE, "10.125", BASE + 10_125),
        (BASE, 10, BASE + 10_000),
        (str(BASE), 4_203_669_603_438.301, BASE + 4_203_669_603_438_301),
        (0, 1_661_938_466_265_584, 1_661_938_466_265_584_000),
        (0, Decimal("1712195495519689.047"), 1_712_195_495_519_689_047),
    ],
)
def test_every_form_of_time_becomes_the_exact_nanosecond(tmp_path: Path, base: Any, ts: Any, expected: int) -> None:
    text = json.dumps(trace_of([event("kernel", "k", "@", 1.5, correlation=1)], baseTimeNanoseconds=base))
    path = tmp_path / "t.json"
    path.write_text(text.replace('"@"', f'"{ts}"' if isinstance(ts, str) else str(ts)))
    row = read(kineto, path, tmp_path).rows("gpu_kernel").to_pylist()[0]
    assert (row["start_ns"], row["end_ns"]) == (expected, expected + 1500)


def test_the_base_may_stand_behind_the_events(tmp_path: Path) -> None:
    trace = {"traceEvents": PAIR, "distributedInfo": {"rank": 5}, "baseTimeNanoseconds": BASE}
    found = read(kineto, write(tmp_path, trace), tmp_path)
    assert found.rows("gpu_kernel")["start_ns"][0].as_py() == BASE + 20_001
    assert found.rows("gpu_kernel")["rank"][0].as_py() == 5


def test_a_rank_is_taken_from_the_files_name_where_the_trace_does_not_tell(tmp_path: Path) -> None:
    found = read(kineto, write(tmp_path, trace_of(PAIR, baseTimeNanoseconds=BASE)), tmp_path)
    assert found.recording["ranks"] == [3]


def test_a_kernel_launched_by_the_driver_alone_finds_its_launch(tmp_path: Path) -> None:
    events = [event("cuda_driver", "cuLaunchKernelEx", 10, 4, correlation=11), PAIR[1]]
    found = read(kineto, write(tmp_path, trace_of(events, baseTimeNanoseconds=BASE)), tmp_path)
    assert found.rows("launch")["api"].to_pylist() == ["cuLaunchKernelEx"]


def test_a_runtime_and_a_driver_call_of_one_correlation_id_are_one_launch(tmp_path: Path) -> None:
    events = [*PAIR, event("cuda_driver", "cuLaunchKernel", 11, 2, correlation=11)]
    found = read(kineto, write(tmp_path, trace_of(events, baseTimeNanoseconds=BASE)), tmp_path)
    assert found.rows("launch")["api"].to_pylist() == ["cudaLaunchKernel"]
    assert found.rows("annotation")["name"].to_pylist() == ["cuLaunchKernel"]


def test_a_correlation_id_of_two_processes_names_neither(tmp_path: Path) -> None:
    other = PAIR[0] | {"pid": 5555}
    found = read(kineto, write(tmp_path, trace_of([*PAIR, other], baseTimeNanoseconds=BASE)), tmp_path)
    assert found.rows("gpu_kernel")["process_uid"].to_pylist() == [None]
    assert found.rows("launch").num_rows == 2


def test_a_hundred_thousand_kernels_of_one_launch_keep_one_launch(tmp_path: Path) -> None:
    count = 100_000  # Enough to fill several pieces; the slow tests of the views take a million.
    kernel = json.dumps(event("kernel", "node", 30, 1, correlation=11, device=0, stream=7))
    path = tmp_path / "graph.json"
    launch = json.dumps(event("cuda_runtime", "cudaGraphLaunch", 10, 4, correlation=11))
    events = ",\n".join([launch, *[kernel] * count])
    path.write_text(f'{{"baseTimeNanoseconds": {BASE}, "traceEvents": [{events}]}}')
    found = read(kineto, path, tmp_path)
    launch_rows, kernels = found.rows("launch"), found.rows("gpu_kernel")
    assert (launch_rows.num_rows, kernels.num_rows) == (1, count)
    joined = duckdb.sql("SELECT count(*) FROM kernels JOIN launch_rows USING (process_uid, correlation_id)").fetchall()
    assert joined == [(count,)]


def test_collective_arguments_are_kept(tmp_path: Path) -> None:
    nccl = event("kernel", "ncclDevKernel_AllReduce", 20, 7, correlation=11, device=0, stream=9) | {}
    nccl["args"] |= {"Collective name": "allreduce", "In msg nelems": 1024, "Group size": 8, "dtype": "BFloat16",
                     "Process Group Ranks": "[0, 1]"}  # fmt: skip
    found = read(kineto, write(tmp_path, trace_of([PAIR[0], nccl], baseTimeNanoseconds=BASE)), tmp_path)
    told = json.loads(found.rows("gpu_kernel_detail")["communication"][0].as_py())
    assert told == {
        "collective": "allreduce",
        "in_elements": 1024,
        "group_size": 8,
        "dtype": "BFloat16",
        "ranks": "[0, 1]",
    }
    assert found.rows("gpu_kernel")["kernel_class"][0].as_py() == "communication"


def test_what_is_not_understood_is_counted_and_the_rest_is_imported(tmp_path: Path) -> None:
    broken = [
        event("kernel", "backwards", 50, -3, correlation=1),
        event("kernel", "timeless", None, 3, correlation=2),
        event("kernel", "endless", 50, None, correlation=3),
        event("cpu_op", "aten::backwards", 50, -1),
        {"ph": "B", "cat": "cpu_op", "name": "begun", "ts": 1, "pid": 1, "tid": 1},
        "not an event",
        event("cpu_op", "far", 8_000_000_000_000_000, 1),
    ]
    found = read(kineto, write(tmp_path, trace_of([*PAIR, *broken], baseTimeNanoseconds=BASE)), tmp_path)
    kernels = {row["name"]: row for row in found.rows("gpu_kernel").to_pylist()}
    assert {name: row["validity"] for name, row in kernels.items()} == {
        "gemm_128x128": None, "backwards": "reversed", "timeless": "no_time", "endless": "no_time",
    }  # fmt: skip
    assert all(row["end_ns"] >= row["start_ns"] >= BASE for row in kernels.values())
    assert found.summary["not_understood"] == {
        "execution that ends before it begins": 1,
        "execution without a time": 2,
        "ends before it begins": 1,
        "event of phase 'B' is not known": 1,
        "is not an event": 1,
        "time is far from all others": 1,
    }
    assert sum(batch.rows["lost"][0].as_py() for batch in found.losses) == 7
    assert found.summary["kernel_ns"] == 7333


def test_a_stray_byte_costs_its_event_alone(tmp_path: Path) -> None:
    text = json.dumps(
        trace_of([*PAIR, event("cpu_op", "@", 1, 1), event("cpu_op", "fine", 1, 1)], baseTimeNanoseconds=BASE)
    )
    path = tmp_path / "t.json"
    path.write_bytes(text.encode().replace(b"@", b"C:\\Users\\x \xff"))
    found = read(kineto, path, tmp_path)
    assert found.rows("annotation")["name"].to_pylist() == ["fine"]
    assert found.summary["not_understood"] == {"event is not JSON": 1}


def test_not_a_number_in_an_argument_is_tolerated(tmp_path: Path) -> None:
    text = json.dumps(trace_of([*PAIR, event("cpu_op", "op", 1, 1, flops="@")], baseTimeNanoseconds=BASE)).replace(
        '"@"', "inf"
    )
    path = tmp_path / "t.json"
    path.write_text(text)
    assert read(kineto, path, tmp_path).rows("gpu_kernel").num_rows == 1


def test_strings_that_look_like_the_end_of_an_event_do_not_cut_one(tmp_path: Path) -> None:
    name = 'x"}}, {"ph": "X", "traceEvents": [ ]} \\" \\\\'
    events = [event("cpu_op", name, number, 1) for number in range(60_000)]
    found = read(kineto, write(tmp_path, trace_of(events, baseTimeNanoseconds=BASE)), tmp_path)
    assert found.rows("annotation")["name"].to_pylist() == [name] * 60_000


def test_a_trace_from_the_future_is_imported_with_a_note(tmp_path: Path) -> None:
    found = read(kineto, write(tmp_path, trace_of(PAIR, baseTimeNanoseconds=3_000_000_000_000_000_000)), tmp_path)
    assert any("in the future (year 2065)" in note for note in found.summary["notes"])


@pytest.mark.parametrize("base", [0, 9_000_000_000_000_000_000])
def test_times_that_are_no_wall_clock_are_put_at_the_files_own(tmp_path: Path, base: int) -> None:
    path = write(tmp_path, trace_of(PAIR, baseTimeNanoseconds=base))
    recording = read(kineto, path, tmp_path).recording
    assert recording["end_ns"] == path.stat().st_mtime_ns
    assert recording["clock"].startswith("unknown") and recording["clock_error_ns"] is None


def whole_gzip(tmp_path: Path) -> bytes:
    events = [event("cpu_op", f"op{number}", number, random.Random(number).random()) for number in range(20_000)]
    return gzip.compress(json.dumps(trace_of([*PAIR, *events], baseTimeNanoseconds=BASE)).encode())


def damaged(tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    whole = whole_gzip(tmp_path)
    text = gzip.decompress(whole)
    yield "truncated.json.gz", whole[: len(whole) // 2]
    yield "flipped.json.gz", whole[:5000] + bytes([whole[5000] ^ 0xFF]) + whole[5001:]
    yield "half.json", text[: len(text) // 2]
    yield "no_tail.json", text[:-1]
    yield "page.html", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "empty.json", b""
    yield "empty_object.json", b"{}"
    yield "empty_events.json", b'{"traceEvents": []}'
    yield "foreign.json", b'{"resourceSpans": [], "traceEvents": {"a": 1}}'
    yield "numbers.json", b"[1, 2, 3]"
    yield "binary.json", bytes(range(256)) * 64
    yield "cut.tar.gz", tar_of({"rank0.json": text})[:20_000]


def tar_of(members: dict[str, bytes]) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w:gz") as archive:
        for name, body in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return into.getvalue()


def test_a_damaged_or_foreign_file_is_refused_with_a_sentence_and_yields_nothing(tmp_path: Path) -> None:
    for name, body in damaged(tmp_path):
        path = tmp_path / name
        path.write_bytes(body)
        yielded = []
        with pytest.raises(SourceError) as refused:
            for batch in kineto.read(path, context(tmp_path, [])):
                yielded.append(batch)  # noqa: PERF402  # what came before the error is the point
        assert not yielded, name
        assert ": " in str(refused.value) and "Traceback" not in str(refused.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.integers(0, 600))
def test_random_bytes_never_raise_out_of_the_reader(tmp_path: Path, noise: bytes, at: int) -> None:
    whole = json.dumps(trace_of(PAIR, baseTimeNanoseconds=BASE)).encode()
    for body in (noise, whole[:at] + noise + whole[at:]):
        path = tmp_path / "noise.json"
        path.write_bytes(body)
        try:
            read(kineto, path, tmp_path)
        except SourceError as refused:
            assert str(refused)


TOKEN = "hf_" + "Q7x" * 11
SECRET_PLACES = [
    ("metadata", {"metadata": {"system": {"env": {"HF_TOKEN": TOKEN, "PATH": "/bin"}}}}, "environment variables"),
    ("name", {}, "secrets in names"),
]


@pytest.mark.parametrize(("place", "metadata", "reported"), SECRET_PLACES)
def test_a_token_planted_in_a_trace_appears_nowhere(tmp_path: Path, place: str, metadata: Any, reported: str) -> None:
    named = event("user_annotation", f"call(api_key={TOKEN})" if place == "name" else "call", 1, 2)
    step = event("user_annotation", f"execute_context_1(2)_generation_0(0) {TOKEN if place == 'name' else ''}", 5, 9)
    found = read(
        kineto, write(tmp_path, trace_of([*PAIR, named, step], **metadata, baseTimeNanoseconds=BASE)), tmp_path
    )
    everything = json.dumps([batch.rows.to_pydict() for batch in found.batches + found.losses], default=str)
    assert TOKEN not in everything and TOKEN[3:] not in everything
    assert found.summary["removed"][reported] >= 1


def test_the_same_file_gives_the_same_batches_in_the_same_order(tmp_path: Path) -> None:
    path = write(tmp_path, trace_of(PAIR * 50, baseTimeNanoseconds=BASE))
    first, second = read(kineto, path, tmp_path), read(kineto, path, tmp_path)
    assert [b.rows for b in first.batches] == [b.rows for b in second.batches]


def test_ranges_carry_their_nesting_depth(tmp_path: Path) -> None:
    spans = [(0, 100), (10, 50), (20, 10), (60, 30), (100, 5)]
    events = [event("cpu_op", str(number), *span) for number, span in enumerate(spans)]
    found = read(kineto, write(tmp_path, trace_of([*events, *PAIR], baseTimeNanoseconds=BASE)), tmp_path)
    depth = {row["name"]: row["depth"] for row in found.rows("annotation").to_pylist()}
    assert [depth[str(number)] for number in range(5)] == [0, 1, 2, 1, 0]


def test_memory_stays_bounded_by_the_piece_not_by_the_file(tmp_path: Path) -> None:
    """The reader holds numbers of the rows, never their texts: a name of 2 kB per event must not add up."""
    events = [event("cpu_op", f"{number % 7}" * 2000, number, 1) for number in range(20_000)]
    path = write(tmp_path, trace_of([*PAIR, *events], baseTimeNanoseconds=BASE))
    assert path.stat().st_size > 40_000_000
    sizes = [batch.rows.nbytes for batch in kineto.read(path, context(tmp_path, []))]
    assert max(sizes) < 4_000_000 and np.sum(sizes) < 10_000_000
