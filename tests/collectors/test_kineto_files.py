from __future__ import annotations

import gzip
import json
import tarfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from collectors import kineto
from tests.collectors.reading import Reading, read
from warpline.errors import SourceError

GPU_CATEGORIES = {"kernel": "kernel", "gpu_memcpy": "memcpy", "gpu_memset": "memset"}
GPU_CATEGORIES |= {"Kernel": "kernel", "Memcpy": "memcpy", "Memset": "memset"}
CALL_CATEGORIES = {"cuda_runtime", "cuda_driver", "Runtime", "mtia_runtime"}

REAL_FILES = (
    "deepseek/train.json.gz",
    "hta/amd_trace__mi250_minitoy_train_ROCm6_2_kineto.json.gz",
    "hta/critical_path_alexnet__benchmark_result_2869224_1695835535_trace.json.gz",
    "hta/critical_path_cuda_event_sync__event_sync_trace.json.gz",
    "hta/critical_path_cuda_event_sync_multi_stream__event_sync_trace.json.gz",
    "hta/critical_path_simple_add__benchmark_result_493459_1694039959_trace.json.gz",
    "hta/cupti_profiler__benchmark_result_924719_1679055439_trace.json.gz",
    "hta/df_index_resolver__df_index_resolver.json.gz",
    "hta/execution_trace__benchmark_simple_add_trace.json.gz",
    "hta/mtia_inference_trace__mtia_inference_rank_0.json.gz",
    "hta/nccl_parser_config__nccl_data.json.gz",
    "hta/negative_queue_length_values_check__rank0.json.gz",
    "hta/ns_resolution_trace__rank-0.Apr_03_18_51_38.1102.pt.trace.json.gz",
    "hta/trace_diff_test__test.json.gz",
    "hta/trace_file_list__inference_rank_1.json.gz",
    "hta/trace_filter__sampled_rank-0.json.gz",
    "hta/trace_filter__sampled_rank-1.json.gz",
    "hta/triton_example__triton_example.json.gz",
    "kineto-tb/gpu_metrics_input.json.gz",
    "kineto-tb/resnet50_num_workers_0_worker0.1623143089861.pt.trace.json.gz",
    "kineto-tb/resnet50_num_workers_4_worker0.1623212756351.pt.trace.json.gz",
    "param/resnet_kineto.json.gz",
    "tracelens/b200_eager_8rank_rank0.json.gz",
    "tracelens/h100_qwen1.5-0.5b-chat.json.gz",
    "tracelens/h100_vit.json.gz",
    "tracelens/mi210_gpu_only.json.gz",
    "tracelens/mi300_qwen1.5-0.5b-chat.json.gz",
    "tracelens/mi300x_resnet_ddp_rank0.json.gz",
    "tracelens/mi300x_torch_compile_triton.json.gz",
    "tracelens/sglang_decode_mi300x_graph_capture_bs32.json.gz",
    "tracelens/sglang_decode_mi300x_qwen3-8b.json.gz",
    "tracelens/sglang_prefilldecode_mi300x_qwen3-8b.json.gz",
    "tracelens/vllm_decode_full_graph_capture.pt.trace.json.gz",
    "tracelens/vllm_decode_full_graph_execution.json.gz",
)
CPU_ONLY = (
    "hta/cpu_only__rank-34.Jul_15_10_52_41.1074.pt.trace.json.gz",
    "hta/distributed_info_unavailable__distributed_info_not_found.json.gz",
    "hta/rank_non_gpu__rank_non_gpu.json.gz",
)
NO_TRACES = (
    "hta/execution_trace__benchmark_simple_add_et.json.gz",
    "hta/memory_analysis__memory_timeline.raw.gz",
    "tracelens/vllm_decode_full_execution_details.json",
)


def real(shared_data: Path, name: str) -> Path:
    path = shared_data / "kineto" / name
    if not path.exists():
        pytest.skip(f"no {name} among the real recordings")
    return path


def events_of(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The trace by Python's own parser, with decimals kept as text: a way that shares nothing with the reader."""
    trace = json.loads(gzip.decompress(path.read_bytes()), parse_float=str)
    return trace, [e for e in trace["traceEvents"] if e.get("ph") == "X"]


def exact_ns(trace: dict[str, Any], us: Any) -> int:
    return int(trace.get("baseTimeNanoseconds", 0)) + int((Decimal(us) * 1000).to_integral_value())


@pytest.mark.parametrize("name", REAL_FILES)
def test_rows_of_a_real_trace_equal_a_count_made_straight_from_its_json(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    path = real(shared_data, name)
    trace, events = events_of(path)
    found = read(kineto, path, tmp_path)
    assert_executions_equal(found.rows("gpu_kernel"), trace, events)
    assert_calls_equal(found, [e for e in events if e.get("cat") in CALL_CATEGORIES])
    assert found.summary["not_understood"] == {}


def assert_executions_equal(rows: pa.Table, trace: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """Kind, start, length and name of each execution, to the nanosecond."""
    gpu = [e for e in events if e.get("cat") in GPU_CATEGORIES]
    # MTIA has categories of its own: what its engine executed, and what its copy engine moved.
    mtia = {"pe_exe": "kernel", "dma_request": "memcpy"}
    gpu += [e for e in events if e.get("cat") == "mtia_ccp_events" and e["name"] in mtia]
    kinds = [GPU_CATEGORIES.get(e["cat"]) or mtia[e["name"]] for e in gpu]
    expected = [
        (kind, exact_ns(trace, e["ts"]), int(Decimal(e["dur"]) * 1000), e["name"])
        for kind, e in zip(kinds, gpu, strict=True)
    ]
    start, end = rows["start_ns"].to_numpy(), rows["end_ns"].to_numpy()
    got = zip(rows["kind"].to_pylist(), start.tolist(), (end - start).tolist(), rows["name"].to_pylist(), strict=True)
    assert Counter(got) == Counter(expected)


def assert_calls_equal(found: Reading, calls: list[dict[str, Any]]) -> None:
    """Every call is a launch or an annotation, and a join on process and correlation id multiplies nothing."""
    launch, gpu_kernel, annotation = found.rows("launch"), found.rows("gpu_kernel"), found.rows("annotation")
    others = annotation.filter(pc.equal(annotation["kind"].cast("string"), "cuda_api"))
    assert Counter(launch["api"].to_pylist() + others["name"].to_pylist()) == Counter(e["name"] for e in calls)
    called = {e["args"]["correlation"] for e in calls if "correlation" in e.get("args", {})}
    joined = duckdb.sql(
        "SELECT count(*), count(DISTINCT (launch.process_uid, launch.correlation_id)) FROM gpu_kernel JOIN launch "
        "USING (process_uid, correlation_id)"
    ).fetchall()[0]
    wanted = [c for c in gpu_kernel["correlation_id"].to_pylist() if c]
    assert joined == (sum(c in called for c in wanted), len({c for c in wanted if c in called}))


@pytest.mark.parametrize("name", CPU_ONLY)
def test_a_trace_without_a_gpu_is_imported_and_says_so(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = real(shared_data, name)
    found = read(kineto, path, tmp_path)
    _, events = events_of(path)
    assert found.rows("annotation").num_rows == sum(e["cat"] != "Trace" for e in events)
    assert found.rows("gpu_kernel").num_rows == 0
    assert any("no GPU executions" in note for note in found.summary["notes"])


@pytest.mark.parametrize("name", NO_TRACES)
def test_json_that_is_no_trace_is_refused_with_a_sentence(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = real(shared_data, name)
    with pytest.raises(SourceError, match=r"not a Kineto trace|no Kineto trace"):
        read(kineto, path, tmp_path)
    assert not kineto.recognises(path)


def test_workers_in_a_tar_are_the_ranks_of_one_recording(shared_data: Path, tmp_path: Path) -> None:
    path = real(shared_data, "param/dlrm_kineto.tar.gz")
    found = read(kineto, path, tmp_path)
    with tarfile.open(path) as archive:
        counts = {}
        for member in archive:
            if member.isfile():
                trace = json.load(archive.extractfile(member))  # type: ignore[arg-type]
                rank = trace["distributedInfo"]["rank"]
                counts[rank] = sum(e.get("cat") in GPU_CATEGORIES for e in trace["traceEvents"])
    assert Counter(found.rows("gpu_kernel")["rank"].to_pylist()) == counts
    assert found.recording["ranks"] == sorted(counts) and len(counts) == 8


def union_of(intervals: list[tuple[int, int]]) -> int:
    """A sweep over points, in Python's integers."""
    points = sorted([(s, 1) for s, e in intervals if e > s] + [(e, -1) for s, e in intervals if e > s])
    total, open_now, since = 0, 0, 0
    for at, step in points:
        total += at - since if open_now else 0
        open_now, since = open_now + step, at
    return total


@pytest.mark.parametrize(
    "name",
    [
        "hta/nccl_parser_config__nccl_data.json.gz",
        "tracelens/mi300x_resnet_ddp_rank0.json.gz",
        "deepseek/train.json.gz",
    ],
)
def test_busy_time_overlap_and_top_kernels_agree_with_a_sweep_over_the_raw_events(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    path = real(shared_data, name)
    trace, events = events_of(path)
    gpu = [e for e in events if e.get("cat") in GPU_CATEGORIES]
    spans = [(exact_ns(trace, e["ts"]), exact_ns(trace, e["ts"]) + int(Decimal(e["dur"]) * 1000)) for e in gpu]
    words = ("nccl", "internode::")
    talks = [e["cat"] == "kernel" and any(word in e["name"].lower() for word in words) for e in gpu]
    summary = read(kineto, path, tmp_path).summary
    (measured,) = summary["gpus"].values()
    is_kernel = [GPU_CATEGORIES[e["cat"]] == "kernel" for e in gpu]
    compute = [s for s, talk, kernel in zip(spans, talks, is_kernel, strict=True) if kernel and not talk]
    talking = [s for s, talk in zip(spans, talks, strict=True) if talk]
    assert measured["busy_ns"] == union_of(spans)
    assert measured["communication_ns"] == union_of(talking) > 0
    assert measured["overlapped_ns"] == union_of(compute) + union_of(talking) - union_of(compute + talking)
    totals: Counter[str] = Counter()
    for event in gpu:
        totals[event["name"]] += int(Decimal(event["dur"]) * 1000)
    assert [each["total_ns"] for each in summary["top"]] == [total for _, total in totals.most_common(10)]
    assert all(totals[each["name"]] == each["total_ns"] for each in summary["top"])


def test_nanoseconds_in_the_text_survive_where_a_float_would_lose_them(shared_data: Path, tmp_path: Path) -> None:
    path = real(shared_data, "hta/ns_resolution_trace__rank-0.Apr_03_18_51_38.1102.pt.trace.json.gz")
    recording = read(kineto, path, tmp_path).recording
    assert recording["clock_error_ns"] == 1
    assert recording["start_ns"] % 1000 != 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("b200_eager_8rank_rank0", (1, 888, 0)),
        ("sglang_decode_mi300x_qwen3-8b", (32, 0, 32)),
        ("sglang_prefilldecode_mi300x_qwen3-8b", (15, 15360, 0)),
        ("vllm_decode_full_graph_execution", (32, 0, 32)),
    ],
)
def test_an_engines_annotation_becomes_a_step_that_owns_its_launches_and_kernels(
    shared_data: Path, tmp_path: Path, name: str, expected: tuple[int, int, int]
) -> None:
    found = read(kineto, real(shared_data, f"tracelens/{name}.json.gz"), tmp_path)
    (step,) = found.rows("engine_step").to_pylist()
    assert (step["requests"], step["context_tokens"], step["generation_tokens"]) == expected
    launches = {r["correlation_id"] for r in found.rows("launch").to_pylist() if r["step_ordinal"] == step["ordinal"]}
    owned = [r for r in found.rows("gpu_kernel").to_pylist() if r["step_ordinal"] == step["ordinal"]]
    assert owned and {r["correlation_id"] for r in owned} <= launches


def test_an_environment_in_the_metadata_stays_out_and_is_reported(shared_data: Path, tmp_path: Path) -> None:
    found = read(kineto, real(shared_data, "tracelens/h100_vit.json.gz"), tmp_path)
    assert found.summary["removed"]["environment variables"] > 50
    assert "REDACTED" not in json.dumps(
        [b.rows.to_pydict() for b in found.batches if b.table.name == "recording"], default=str
    )
