"""One vocabulary for the metrics of vLLM, SGLang, TensorRT-LLM, Triton, TGI, Dynamo and KServe's servers.

An engine is found by its prefix, whatever stands before it (`ray_vllm:`, `kserve_vllm:`, `vllm_` after an OpenTelemetry
Collector). Durations are in seconds, tokens and requests in counts, shares 0-1. A metric that has no word here keeps the
engine's own name, as `<engine>.<name>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PREFIX = re.compile(
    r"^(?:.*(?P<vllm>vllm)[:_]|(?:.*[_:])?(?P<sglang>sglang)[:_]|(?P<tensorrt_llm>nv_trt_llm|trtllm)_"
    r"|(?P<triton>nv)_|(?P<tgi>tgi)_|(?P<dynamo>dynamo_(?:component|frontend))_"
    r"|(?P<kserve>(?=request_(?:preprocess|predict|postprocess|explain)_seconds)))(?P<name>.+)$"
)


@dataclass(frozen=True, slots=True)
class Word:
    """A metric's name here, the factor to its base unit, and the part where the engine's name says one."""

    metric: str
    factor: float = 1.0
    part: str | None = None
    statistic: str = "value"
    """What a series is that is neither bucket nor quantile: Triton's durations are sums without a histogram."""
    sentinel: float | None = None
    """Value that means "off"."""


def _words(*rows: tuple[str, str]) -> dict[str, Word]:
    return {name: Word(metric) for metric, names in rows for name in names.split()}


_WORDS = _words(
    ("requests.waiting", "num_requests_waiting num_requests_waiting_by_reason num_queue_reqs queue_size"),
    ("requests.running", "num_requests_running num_running_reqs batch_current_size inflight_requests"),
    ("requests.swapped", "num_requests_swapped"),
    ("requests.received", "request_count requests_total num_requests_total"),
    ("requests.finished", "request_success_total request_success"),
    ("requests.aborted", "num_aborted_requests_total"),
    ("kv.used", "gpu_cache_usage_perc kv_cache_usage_perc token_usage kv_cache_utilization gpu_cache_usage_percent"),
    ("kv.cpu.used", "cpu_cache_usage_perc"),
    ("kv.used.tokens", "num_used_tokens"),
    ("kv.capacity.tokens", "max_total_num_tokens"),
    ("prefix.queries", "prefix_cache_queries_total gpu_prefix_cache_queries_total"),
    ("prefix.hits", "prefix_cache_hits_total gpu_prefix_cache_hits_total cached_tokens_total"),
    ("prefix.external.queries", "external_prefix_cache_queries_total"),
    ("prefix.external.hits", "external_prefix_cache_hits_total"),
    ("preemptions", "num_preemptions_total"),
    ("tokens.prompt", "prompt_tokens_total prompt_tokens_by_source_total"),
    ("tokens.prompt.cached", "prompt_tokens_cached_total"),
    ("tokens.prompt.recomputed", "prompt_tokens_recomputed_total"),
    ("tokens.generation", "generation_tokens_total"),
    ("tokens.generation.rate", "gen_throughput avg_generation_throughput_toks_per_s"),
    ("tokens.prompt.rate", "avg_prompt_throughput_toks_per_s"),
    ("ttft", "time_to_first_token_seconds"),
    ("inter_token", "inter_token_latency_seconds time_per_output_token_seconds"),
    ("tpot", "request_time_per_output_token_seconds request_mean_time_per_token_duration"),
    ("e2e", "e2e_request_latency_seconds request_duration request_duration_seconds"),
    ("queue", "request_queue_time_seconds queue_time_seconds request_queue_duration"),
    ("prefill", "request_prefill_time_seconds"),
    ("decode", "request_decode_time_seconds"),
    ("inference", "request_inference_time_seconds request_inference_duration"),
    ("stage", "per_stage_req_latency_seconds"),
    ("request.prompt_tokens", "request_prompt_tokens request_input_length"),
    ("request.generation_tokens", "request_generation_tokens request_generated_tokens"),
    # A histogram, although its name ends as a counter's.
    ("step.tokens", "iteration_tokens_total"),
    ("kv.transfer", "kv_transfer_latency_seconds nixl_xfer_time_seconds"),
    ("kv.transfer.bytes", "nixl_bytes_transferred"),
    ("sleep", "engine_sleep_state"),
    # Triton's own.
    ("requests.pending", "inference_pending_request_count"),
    ("inferences", "inference_count"),
    ("executions", "inference_exec_count"),
) | {
    "gpu_prefix_cache_hit_rate": Word("prefix.hit_ratio", sentinel=-1.0),
    "cpu_prefix_cache_hit_rate": Word("prefix.cpu.hit_ratio", sentinel=-1.0),
    "cache_hit_rate": Word("prefix.hit_ratio", sentinel=-1.0),
    "kv_cache_hit_rate": Word("prefix.hit_ratio"),
    "kv_transfer_latency_ms": Word("kv.transfer", 1e-3),
    "kv_transfer_total_mb": Word("kv.transfer.bytes", float(1 << 20)),
    "inference_request_success": Word("requests.finished", part="success"),
    "inference_request_failure": Word("requests.finished", part="failure"),
    "inference_request_duration_us": Word("e2e", 1e-6, statistic="sum"),
    "inference_queue_duration_us": Word("queue", 1e-6, statistic="sum"),
    "inference_compute_input_duration_us": Word("compute_input", 1e-6, statistic="sum"),
    "inference_compute_infer_duration_us": Word("compute", 1e-6, statistic="sum"),
    "inference_compute_output_duration_us": Word("compute_output", 1e-6, statistic="sum"),
    "inference_request_summary_us": Word("e2e", 1e-6),
    "inference_queue_summary_us": Word("queue", 1e-6),
    "inference_compute_input_summary_us": Word("compute_input", 1e-6),
    "inference_compute_infer_summary_us": Word("compute", 1e-6),
    "inference_compute_output_summary_us": Word("compute_output", 1e-6),
    "inference_first_response_histogram_ms": Word("ttft", 1e-3),
    "request_preprocess_seconds": Word("stage", part="preprocess"),
    "request_predict_seconds": Word("stage", part="predict"),
    "request_postprocess_seconds": Word("stage", part="postprocess"),
    "request_explain_seconds": Word("stage", part="explain"),
}

_TENSORRT_LABELS = (
    "request_type",
    "kv_cache_block_type",
    "inflight_batcher_specific_metric",
    "v1_specific_metric",
    "general_type",
    "disaggregated_serving_type",
    "memory_type",
)
"""Labels in which TensorRT-LLM's Triton backend says what the number is."""

_TENSORRT = {
    "waiting": Word("requests.waiting"),
    "scheduled": Word("requests.running"),
    "active": Word("requests.active"),
    "context": Word("requests.prefill"),
    "generation_requests": Word("requests.decode"),
    "fraction": Word("kv.used"),
    "tokens_per": Word("kv.block.tokens"),
    "free": Word("kv.blocks", part="free"),
    "used": Word("kv.blocks", part="used"),
    "total_context_tokens": Word("step.context_tokens"),
    "total_generation_tokens": Word("step.generation_tokens"),
    "iteration_counter": Word("steps"),
    "kv_cache_transfer_ms": Word("kv.transfer", 1e-3, statistic="sum"),
}

# fmt: off
_IDENTITY = frozenset(
    (
        "model", "model_name", "served_model_name", "version", "engine", "dp_rank", "le", "quantile", "job",
        "instance", "namespace", "pod", "container", "Component", "NodeAddress", "SessionName", "Version",
        "WorkerId", "ReplicaId", "deployment", "application", "llm_isvc_name", "llm_isvc_role",
        "llm_isvc_component", "dynamo_namespace", "dynamo_component", "dynamo_endpoint", "exported_pod",
        "exported_namespace", "exported_container", "service", "endpoint", "tp_rank", "pp_rank", "engine_type",
        "moe_ep_rank", "pid",
    )
)
# fmt: on
"""Labels that say whose a series is; any other says which part of the whole."""


def split_prefix(series_name: str) -> tuple[str, str] | None:
    """Return engine and the metric's name behind the engine's prefix; None for what is no engine's."""
    found = _PREFIX.match(series_name)
    if found is None:
        return None
    return next(engine for engine, text in found.groupdict().items() if text is not None), found["name"]


def word(engine: str, name: str, labels: Mapping[str, str]) -> Word:
    """Return the word for an engine's metric of `name`, without `_bucket`, `_sum` or `_count`."""
    if engine == "tensorrt_llm":
        told = next((labels[label] for label in _TENSORRT_LABELS if label in labels), None)
        if told is not None:
            return _TENSORRT.get(told) or Word(f"{engine}.{name}.{told}")
    known = _WORDS.get(name)
    part = ".".join(text for label, text in sorted(labels.items()) if label not in _IDENTITY and text)
    if name.endswith("_info"):
        part = ""  # All that it says is in its labels: too much for a part.
    if known is None:
        return Word(f"{engine}.{name}", part=part or None)
    return Word(known.metric, known.factor, known.part or part or None, known.statistic, known.sentinel)


def is_known(name: str) -> bool:
    """Say whether a metric has a word: then `_sum` and `_count` behind it are parts of its histogram."""
    return name in _WORDS
