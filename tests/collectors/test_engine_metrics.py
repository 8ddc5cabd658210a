"""Model servers' metrics: every real page goes through, in one vocabulary, units as read by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collectors import engine_metrics
from collectors.wire import prometheus
from demo.engine import gpu_page
from tests.collectors.telemetry_doubles import Seen, context, running, text_server_double
from tests.waiting import until
from warpline.settings import Settings

PAGES = [
    "vllm/metrics/vllm-qwen2.5-0.5b-l4-idle-2026-03.prom",
    "vllm/metrics/vllm-v0-opt125m-1request-2024-06.prom",
    "vllm/fragments/vllm-0.10.0-glm-4.5-issue617-truncated.prom",
    "vllm/fragments/vllm-2024-04-bloom-560m-ibmpr18-truncated.prom",
    "vllm/fragments/vllm-2025-03-qwen2.5-coder-32b-issue318-truncated.prom",
    "vllm/fragments/vllm-2025-08-qwen3-8b-dp-two-engines-pr22227-truncated.prom",
    "vllm/fragments/vllm-qwen3-0.6b-h100-10requests-2026-03.prom",
    "sglang/metrics/sglang-llama3.1-8b-docs.prom",
    "triton/metrics/triton-t4-datadog-fixture.prom",
    "triton/metrics/trtllm-readme.prom",
    "triton/metrics/vllm_backend-readme.prom",
]
FOREIGN = ("process_", "python_", "http_")


def read(text: str, server: engine_metrics.Server | None = None) -> tuple[list[dict[str, Any]], dict[str, int]]:
    page = prometheus.parse(text)
    batch, lost = (server or engine_metrics.Server("test:8000")).samples(1, page)
    return batch.rows.to_pylist(), lost | {"malformed line": page.malformed}


def value(rows: list[dict[str, Any]], metric: str, statistic: str = "value", **wanted: Any) -> float:
    found = [
        row["value"]
        for row in rows
        if (row["metric"], row["statistic"]) == (metric, statistic) and wanted.items() <= row.items()
    ]
    assert len(found) == 1, (metric, statistic, found)
    return float(found[0])


@pytest.mark.parametrize("file", PAGES)
def test_every_real_line_of_an_engine_becomes_a_row_or_a_counted_loss(shared_data: Path, file: str) -> None:
    text = (shared_data / file).read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    engine_s = [line for line in lines if not line.startswith(FOREIGN) and "_created" not in line.split("{")[0]]
    rows, lost = read(text)
    assert len(engine_s) == len(rows) + sum(lost.values())
    assert len(rows) >= len(engine_s) - 1, lost


def test_every_real_page_is_listed(shared_data: Path) -> None:
    found = {
        str(file.relative_to(shared_data))
        for kind in ("vllm", "sglang", "triton")
        for file in (shared_data / kind).glob("*/*.prom")
    }
    assert found == set(PAGES)


def test_vllm_1_in_the_vocabulary(shared_data: Path) -> None:
    rows, _ = read((shared_data / PAGES[0]).read_text())
    text = (shared_data / PAGES[0]).read_text()
    blocks = int(text.split('num_gpu_blocks="')[1].split('"')[0])
    assert value(rows, "kv.capacity.tokens") == blocks * 16
    assert value(rows, "requests.waiting", engine_index=0, model="Qwen/Qwen2.5-0.5B-Instruct") == 0
    assert value(rows, "kv.used") == 0
    assert {row["part"] for row in rows if row["metric"] == "requests.finished"} == {
        "abort",
        "error",
        "length",
        "repetition",
        "stop",
    }
    steps = [row for row in rows if row["metric"] == "step.tokens"]
    assert {row["statistic"] for row in steps} == {"bucket", "sum", "count"}, "a histogram in spite of its name"
    assert all(row["monotonic"] for row in steps)
    assert not [row for row in rows if "created" in row["metric"]]


def test_vllm_0_in_the_same_words(shared_data: Path) -> None:
    text = (shared_data / PAGES[1]).read_text()
    rows, _ = read(text)
    told = {line.split("{")[0]: float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:")}
    assert value(rows, "ttft", "sum") == told["vllm:time_to_first_token_seconds_sum"] > 0
    assert value(rows, "inter_token", "count") == told["vllm:time_per_output_token_seconds_count"]
    assert value(rows, "e2e", "count") == 1
    assert value(rows, "kv.used") == told["vllm:gpu_cache_usage_perc"]
    assert value(rows, "requests.finished", part="length") == 1


def test_a_truncated_histogram_gets_no_invented_count(shared_data: Path) -> None:
    rows, _ = read((shared_data / PAGES[5]).read_text())
    assert {row["statistic"] for row in rows} == {"bucket"}
    assert {(row["metric"], row["engine_index"]) for row in rows} == {("e2e", 0), ("ttft", 1)}


@pytest.mark.parametrize("prefix", ["ray_vllm:", "kserve_vllm:", "kserve_vllm_", "vllm_"])
def test_prefixes_of_ray_kserve_and_opentelemetry_are_seen_through(prefix: str) -> None:
    extra = 'Component="x",NodeAddress="10.0.0.1",SessionName="s",Version="2",WorkerId="w",llm_isvc_role="decode",'
    labels = f'{{{extra}model_name="m"}}'
    rows, lost = read(f"{prefix}num_requests_waiting{labels} 3\n{prefix}gpu_prefix_cache_hit_rate{labels} -1.0\n")
    assert [(row["engine"], row["metric"], row["part"], row["model"], row["value"]) for row in rows] == [
        ("vllm", "requests.waiting", None, "m", 3)
    ]
    assert lost["switched off"] == 1


def test_sglang_in_the_vocabulary(shared_data: Path) -> None:
    rows, _ = read((shared_data / PAGES[7]).read_text())
    text = (shared_data / PAGES[7]).read_text()
    told = {line.split("{")[0]: float(line.split()[-1]) for line in text.splitlines() if line.startswith("sglang:")}
    assert value(rows, "requests.waiting") == told["sglang:num_queue_reqs"]
    assert value(rows, "kv.used") == told["sglang:token_usage"] <= 1
    assert value(rows, "ttft", "count") == told["sglang:time_to_first_token_seconds_count"]
    rows, _ = read("sglang:kv_transfer_latency_ms_sum 1500\nsglang:kv_transfer_latency_ms_count 3\n")
    assert value(rows, "kv.transfer", "sum") == 1.5
    assert value(rows, "kv.transfer", "count") == 3


def test_triton_microseconds_become_seconds(shared_data: Path) -> None:
    rows, _ = read((shared_data / PAGES[8]).read_text())
    assert value(rows, "compute", "sum", model="densenet_onnx") == pytest.approx(1.326831)
    assert value(rows, "queue", "sum", model="densenet_onnx") == pytest.approx(145e-6)
    assert value(rows, "inferences", model="densenet_onnx") == 3
    assert value(rows, "triton.gpu_power_usage", part="GPU-951eeeeb-d284-d263-688e-d98a5306389b") == 32.09


def test_tensorrt_llm_says_the_quantity_in_a_label(shared_data: Path) -> None:
    rows, _ = read((shared_data / PAGES[9]).read_text())
    assert value(rows, "requests.waiting", engine="tensorrt_llm", model="tensorrt_llm") == 1
    assert value(rows, "kv.used") == 0.4875
    assert value(rows, "kv.block.tokens") == 64
    assert value(rows, "step.generation_tokens") == 20


def test_the_vllm_backend_of_triton_is_vllm(shared_data: Path) -> None:
    rows, _ = read((shared_data / PAGES[10]).read_text())
    assert value(rows, "ttft", "sum", engine="vllm", model="vllm_model") == pytest.approx(0.03233122825622559)


def test_tgi_dynamo_kserve_and_tensorrt_llms_own_server_speak_the_same_words() -> None:
    rows, _ = read(
        "tgi_queue_size 3\ntgi_request_duration_sum 2.5\n"
        'dynamo_component_gpu_cache_usage_percent{dynamo_namespace="n"} 0.5\n'
        'request_predict_seconds_sum{model_name="m"} 2\n'
        "trtllm_kv_transfer_latency_seconds_count 4\n"
    )
    assert [(row["engine"], row["metric"], row["part"], row["statistic"], row["value"]) for row in rows] == [
        ("tgi", "requests.waiting", None, "value", 3),
        ("tgi", "e2e", None, "sum", 2.5),
        ("dynamo", "kv.used", None, "value", 0.5),
        ("kserve", "stage", "predict", "sum", 2),
        ("tensorrt_llm", "kv.transfer", None, "count", 4),
    ]


def test_what_the_demos_engine_says_is_called_simulated() -> None:
    state = {"running": 1, "waiting": 2, "kv_used_ratio": 0.5, "preemptions": 0}
    served = gpu_page.Served(finished=2)
    for seconds in (0.2, 3, 20):
        served.first_token(seconds)
    rows, _ = read(gpu_page.engine_page(state, gpu_page.Fetched(), served) + "vllm:num_requests_running 1\n")
    assert [row["simulated"] for row in rows] == [True] * (len(rows) - 1) + [None]
    assert {row["upper_bound"]: row["value"] for row in rows if row["statistic"] == "bucket"} == {
        0.1: 0, 0.25: 1, 0.5: 1, 1: 1, 2.5: 1, 5: 2, 10: 2, float("inf"): 3,
    }  # fmt: skip
    assert (value(rows, "ttft", "sum"), value(rows, "ttft", "count"), value(rows, "requests.finished")) == (23.2, 3, 2)
    rows, _ = read(gpu_page.engine_page(state, gpu_page.Fetched(3, 7 << 20, 0.5), served))
    told = {(row["metric"], row["statistic"]): row["value"] for row in rows if row["metric"].startswith("kv.transfer")}
    assert told == {
        ("kv.transfer", "count"): 3,
        ("kv.transfer", "sum"): 0.5,
        ("kv.transfer.bytes", "count"): 3,
        ("kv.transfer.bytes", "sum"): 7 << 20,
    }


def test_an_impossible_histogram_passes_unchanged() -> None:
    page = "# TYPE vllm:time_to_first_token_seconds histogram\n" + "".join(
        f"vllm:time_to_first_token_seconds_{line}\n"
        for line in ('bucket{le="0.001"} 8060', "sum 0.587", "count 8060", 'bucket{le="x"} 1')
    )
    rows, _ = read(page)
    assert value(rows, "ttft", "bucket", upper_bound=0.001) == 8060
    assert value(rows, "ttft", "sum") == 0.587
    assert len(rows) == 4


def test_counters_of_several_processes_are_not_called_monotonic() -> None:
    server = engine_metrics.Server("test:8000")
    lost = 0
    for told in (10, 4, 12, 5):
        rows, counted = read(f"# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total {told}\n", server)
        lost += counted.get("counter went back", 0)
    assert rows[0]["monotonic"] is False
    assert lost == 1


def test_series_whose_labels_change_with_each_scrape_do_not_fill_the_memory() -> None:
    server = engine_metrics.Server("test:8000")
    for number in range(50):
        read(f'vllm:num_preemptions_total{{model_name="m"}} 3\nvllm:prompt_tokens_total{{pod="{number}"}} 1\n', server)
    assert len(server._last) == 2


def test_a_restart_is_no_counter_that_went_back() -> None:
    server = engine_metrics.Server("test:8000")
    for start, told in ((100.0, 10), (200.0, 4)):
        rows, lost = read(f"process_start_time_seconds {start}\nvllm:prompt_tokens_total {told}\n", server)
        assert rows[0]["monotonic"] is True
        assert "counter went back" not in lost


def test_servers_come_and_go_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_BACK_OFF_S", (0.0, 0.1))
    seen, down = Seen(), [True]
    page = 'vllm:num_requests_waiting{engine="0",model_name="m"} 3\n'
    with (
        text_server_double(lambda path: (200, page)) as good,
        text_server_double(lambda path: (500, "") if down[0] else (200, page)) as bad,
    ):
        where = context(tmp_path, seen, engine_urls=f"dns+http://{good}/metrics,{bad}", engine_interval_s=0.05)
        assert engine_metrics.check(where.settings) is None
        with running(engine_metrics, where, seen):
            until(lambda: len(seen.rows("engine_sample")) >= 3 and seen.lost().get("scrape failed", 0) >= 1)
            down[0] = False
            until(lambda: {row["target"] for row in seen.rows("engine_sample")} == {good, bad})
    assert {row["value"] for row in seen.rows("engine_sample")} == {3}
    assert {row["node"] for row in seen.rows("engine_sample")} == {where.node}, "loopback is nobody else's"


@pytest.mark.parametrize(
    ("url", "node"),
    [
        ("http://127.0.0.1:8000/metrics", "n"),
        ("http://[::1]:8000/metrics", "n"),
        ("http://localhost:8000/metrics", "n"),
        ("http://10.0.0.7:8000/metrics", None),
        ("http://vllm.llm.svc:8000/metrics", None),
    ],
)
def test_an_engine_is_known_to_be_on_this_node_where_its_address_is_loopback(url: str, node: str | None) -> None:
    assert engine_metrics._node(url, "n") == node


def test_without_an_address_one_line_says_what_to_do() -> None:
    assert engine_metrics.check(Settings()) == (
        "engine_urls names no address; set engine_urls to the metrics addresses of model servers, such as 127.0.0.1:8000"
    )
