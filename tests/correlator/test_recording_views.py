from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from collectors import kineto, nsys
from correlator.storage.store import Store
from correlator.timeline import timeline_scope
from tests.correlator.recordings import put, rows, store_in

BASE = 1_767_189_312_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with store_in(tmp_path) as found:
        yield found


def of(store: Store, view: str, recording: dict[str, Any]) -> list[dict[str, Any]]:
    return rows(store, view, {"recording": recording["recording_uid"]})


@pytest.fixture
def small(store: Store, root: Path, tmp_path: Path) -> dict[str, Any]:
    return put(store, kineto, root / "tests/collectors/data/kineto_small.json", tmp_path).recording


def test_busy_time_is_the_union_and_kernel_time_the_sum(store: Store, small: dict[str, Any]) -> None:
    (busy,) = of(store, "recording_busy", small)
    assert busy == {
        "rank": 1, "gpu_uuid": "0", "start_ns": BASE + 1_020_500, "end_ns": BASE + 1_306_500, "executions": 5,
        "kernel_ns": 108_750, "busy_ns": 101_750, "idle_ns": 184_250, "busy_ratio": 101_750 / 286_000, "memory_ns": 1500,
    }  # fmt: skip


def test_communication_is_told_apart_from_what_hides_it(store: Store, small: dict[str, Any]) -> None:
    (overlap,) = of(store, "recording_overlap", small)
    assert overlap == {
        "rank": 1, "gpu_uuid": "0", "compute_ns": 92_250, "communication_ns": 15_000, "overlapped_ns": 7_000,
        "exposed_ns": 8_000, "overlap_ratio": 7 / 15,
    }  # fmt: skip


def test_a_step_has_its_batch_its_launches_and_what_the_gpu_did(store: Store, small: dict[str, Any]) -> None:
    prefill, decode = of(store, "recording_step", small)
    assert (prefill["requests"], prefill["context_tokens"], prefill["generation_tokens"]) == (3, 512, 2)
    assert (prefill["launches"], prefill["executions"], prefill["graph_replays"]) == (1, 1, 0)
    assert (prefill["busy_ns"], prefill["idle_ns"], prefill["median_delay_ns"]) == (60_250, 0, 10_375)
    assert (decode["launches"], decode["executions"], decode["graph_replays"]) == (1, 3, 1)
    assert (decode["kernel_ns"], decode["busy_ns"], decode["idle_ns"]) == (47_000, 40_000, 0)
    assert (decode["communication_ns"], decode["median_delay_ns"]) == (15_000, 20_000)


def test_a_launch_tells_its_delay_its_gap_and_how_many_kernels_it_replayed(store: Store, small: dict[str, Any]) -> None:
    single, graph, copy = of(store, "recording_launch", small)
    assert (single["api"], single["executions"], single["delay_ns"], single["gap_ns"]) == (
        "cudaLaunchKernel", 1, 10_375, None,
    )  # fmt: skip
    assert (graph["graph_replay"], graph["executions"], graph["kernel_ns"]) == (True, 3, 47_000)
    assert graph["gap_ns"] == 1_210_000 - 1_015_000
    assert (copy["api"], copy["step_ordinal"], copy["launch_ns"]) == ("cudaMemcpyAsync", None, 3_000)


def test_the_top_of_the_kernels_is_by_time(store: Store, small: dict[str, Any]) -> None:
    top = of(store, "recording_kernel_top", small)
    assert [(row["name"], row["kernel_class"], row["total_ns"]) for row in top[:3]] == [
        ("sm90_xmma_gemm_bf16", "gemm", 60_250),
        ("flash_fwd_kernel", "attention", 30_000),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "communication", 15_000),
    ]
    assert sum(row["share_ratio"] for row in top) == pytest.approx(1)


def test_an_import_that_did_not_end_is_not_shown(store: Store, root: Path, tmp_path: Path) -> None:
    path = root / "tests/collectors/data/kineto_small.json"
    recording = put(store, kineto, path, tmp_path, whole=False).recording
    names = ("busy", "overlap", "step", "launch", "kernel_top", "rank")
    assert [of(store, f"recording_{name}", recording) for name in names] == [[]] * 6
    with pytest.raises(timeline_scope.Absent):
        timeline_scope.find(store, {"recording": recording["recording_uid"]})
    put(store, kineto, path, tmp_path)
    assert len(of(store, "recording_launch", recording)) == 3
    assert timeline_scope.find(store, {"recording": recording["recording_uid"]}).from_ns < recording["start_ns"]


def test_the_same_recording_written_twice_is_there_once(store: Store, root: Path, tmp_path: Path) -> None:
    path = root / "tests/collectors/data/kineto_small.json"
    for _ in range(2):
        recording = put(store, kineto, path, tmp_path).recording
    assert of(store, "recording_busy", recording)[0]["executions"] == 5
    assert len(rows(store, "recording")) == 1


def test_clocks_of_ranks_are_compared_by_when_their_collectives_ended(store: Store, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    for rank, ahead_us in ((0, 0), (1, 250), (2, -40)):
        kernels = [
            {"ph": "X", "cat": "kernel", "name": "ncclDevKernel_AllReduce", "pid": 0, "tid": 7,
             "ts": 1000 * turn + ahead_us - rank, "dur": 100 + rank, "args": {"correlation": turn, "device": 0, "stream": 7}}
            for turn in range(1, 12)
        ]  # fmt: skip
        trace = {"baseTimeNanoseconds": BASE, "distributedInfo": {"rank": rank}, "traceEvents": kernels}
        (directory / f"rank{rank}.json").write_text(json.dumps(trace))
    recording = put(store, kineto, directory, tmp_path).recording
    found = of(store, "recording_rank", recording)
    assert [(row["rank"], row["ahead_ns"], row["spread_ns"], row["collectives"]) for row in found] == [
        (0, 0, 0, 11),
        (1, 250_000, 0, 11),
        (2, -40_000, 0, 11),
    ]
    assert recording["ranks"] == [0, 1, 2]


def union_of(intervals: list[tuple[int, int]]) -> int:
    points = sorted([(s, 1) for s, e in intervals if e > s] + [(e, -1) for s, e in intervals if e > s])
    total = depth = since = 0
    for at, step in points:
        total += at - since if depth else 0
        depth, since = depth + step, at
    return total


@pytest.mark.parametrize("name", ["tracelens/b200_eager_8rank_rank0", "hta/nccl_parser_config__nccl_data"])
def test_busy_time_and_top_kernels_of_a_real_trace_agree_with_a_sweep_over_its_json(
    store: Store, shared_data: Path, tmp_path: Path, name: str
) -> None:
    path = shared_data / "kineto" / f"{name}.json.gz"
    if not path.exists():
        pytest.skip(f"no {name} among the real recordings")
    events = json.loads(gzip.decompress(path.read_bytes()), parse_float=Decimal)["traceEvents"]
    spans, totals = [], defaultdict(int)
    for each in events:
        if each.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            start, length = int(Decimal(each["ts"]) * 1000), int(Decimal(each["dur"]) * 1000)
            spans.append((start, start + length))
            totals[each["name"]] += length
    recording = put(store, kineto, path, tmp_path).recording
    (busy,) = of(store, "recording_busy", recording)
    assert (busy["busy_ns"], busy["kernel_ns"], busy["executions"]) == (
        union_of(spans),
        sum(totals.values()),
        len(spans),
    )
    top = of(store, "recording_kernel_top", recording)
    assert {row["name"]: row["total_ns"] for row in top} == totals


def test_each_process_of_a_real_report_keeps_its_own_gpu(store: Store, shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "nsys" / "mfu_2gpu_after.sqlite.gz"
    if not path.exists():
        pytest.skip("no nsys report among the real recordings")
    recording = put(store, nsys, path, tmp_path).recording
    assert [row["gpu_uuid"] for row in of(store, "recording_busy", recording)] == ["0", "1"]
    launched = of(store, "recording_launch", recording)
    assert sum(row["executions"] for row in launched) <= 4733


@pytest.mark.slow
def test_a_launch_of_a_million_kernels_is_one_launch_and_multiplies_none(store: Store, tmp_path: Path) -> None:
    count = 1_000_000
    head = {"ph": "X", "cat": "cuda_runtime", "name": "cudaGraphLaunch", "pid": 1, "tid": 2, "ts": 10, "dur": 4}
    node = {"ph": "X", "cat": "kernel", "name": "node", "pid": 0, "tid": 7, "ts": 30, "dur": 1}
    launch = json.dumps(head | {"args": {"correlation": 11}})
    kernels = f",\n{json.dumps(node | {'args': {'correlation': 11, 'device': 0, 'stream': 7}})}" * count
    path = tmp_path / "graph.json"
    path.write_text(f'{{"baseTimeNanoseconds": {BASE}, "traceEvents": [{launch}{kernels}]}}')
    recording = put(store, kineto, path, tmp_path).recording
    (found,) = of(store, "recording_launch", recording)
    assert (found["api"], found["executions"], found["kernel_ns"]) == ("cudaGraphLaunch", count, count * 1000)
    (busy,) = of(store, "recording_busy", recording)
    assert (busy["executions"], busy["kernel_ns"], busy["busy_ns"]) == (count, count * 1000, 1000)
