"""The messages between API server and engine, laid out as vLLM 0.33's are: msgpack arrays, one position a field.

What the double has no use for is None, where vLLM has None too. Positions come from vLLM's v1/engine/__init__.py; maps (the
statistics, the events) carry vLLM's names.
"""

from __future__ import annotations

from typing import Any

import msgspec

ADD, ABORT, UTILITY = b"\x00", b"\x01", b"\x03"
QUEUED, SCHEDULED, PREEMPTED = 1, 2, 3
STOP, LENGTH, ABORTED = 0, 1, 2
FINISH_REASONS = ("stop", "length", "abort")


class SamplingParams(msgspec.Struct, omit_defaults=True):
    """What the request asks of sampling, as far as the double knows it."""

    max_tokens: int = 16
    temperature: float = 1.0
    extra_args: dict[str, Any] | None = None


class EngineCoreRequest(msgspec.Struct, array_like=True, gc=False):
    """One request on its way to the engine."""

    request_id: str
    prompt_token_ids: list[int]
    mm_features: None
    sampling_params: SamplingParams
    pooling_params: None
    arrival_time: float
    lora_request: None = None
    cache_salt: None = None
    data_parallel_rank: int | None = None
    prompt_embeds: None = None
    prompt_is_token_ids: None = None
    client_index: int = 0
    current_wave: int = 0
    priority: int = 0
    trace_headers: dict[str, str] | None = None
    resumable: bool = False
    external_req_id: str | None = None
    reasoning_ended: bool | None = None
    reasoning_parser_kwargs: dict[str, Any] | None = None
    abort_immediately: bool = False
    session_id: str | None = None
    kv_hints: None = None


class EngineCoreEvent(msgspec.Struct):
    """A change of a request's state, at a time of CLOCK_MONOTONIC in s."""

    type: int
    timestamp: float


class PrefillStats(msgspec.Struct):
    """How a request's prompt was computed; sent with its first token."""

    num_prompt_tokens: int = 0
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    num_local_cached_tokens: int = 0
    num_external_cached_tokens: int = 0
    num_cache_creation_tokens: int = 0


class EngineCoreOutput(msgspec.Struct, array_like=True, gc=False):
    """What one step gave one request."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: None = None
    new_prompt_logprobs_tensors: None = None
    pooling_output: None = None
    finish_reason: int | None = None
    stop_reason: int | str | None = None
    events: list[EngineCoreEvent] | None = None
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None
    trace_headers: dict[str, str] | None = None
    prefill_stats: PrefillStats | None = None
    routed_experts: None = None
    num_nans_in_logits: int = 0
    mm_cache_miss_hashes: list[str] | None = None
    new_sampling_mask: None = None
    spec_decode_metrics: None = None
    prompt_token_id_logprobs: None = None
    error: None = None


class PrefixCacheStats(msgspec.Struct):
    """Prefix cache queries since the last message; the double caches nothing, so all that is asked for is computed."""

    reset: bool = False
    requests: int = 0
    queries: int = 0
    hits: int = 0
    preempted_requests: int = 0
    preempted_queries: int = 0
    preempted_hits: int = 0


class IterationDetails(msgspec.Struct):
    """Totals of the step."""

    iteration_index: int
    num_ctx_requests: int
    num_ctx_tokens: int
    num_generation_requests: int
    num_generation_tokens: int
    elapsed_ms: float
    is_dummy: bool = False


class SchedulerStats(msgspec.Struct):
    """The scheduler's queues after the step."""

    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    step_counter: int = 0
    current_wave: int = 0
    kv_cache_usage: float = 0.0
    iteration_details: IterationDetails | None = None
    prefix_cache_stats: PrefixCacheStats = msgspec.field(default_factory=PrefixCacheStats)


class UtilityOutput(msgspec.Struct, array_like=True, gc=False):
    """The answer to a call of one of the engine's own methods."""

    call_id: int
    failure_message: str | None = None
    result: Any = None


class EngineCoreOutputs(msgspec.Struct, array_like=True, gc=False):
    """What one step gave all requests of one client."""

    engine_index: int = 0
    outputs: list[EngineCoreOutput] = msgspec.field(default_factory=list)
    scheduler_stats: SchedulerStats | None = None
    timestamp: float = 0.0
    utility_output: UtilityOutput | None = None
    finished_requests: list[str] | None = None
    wave_complete: int | None = None
    start_wave: int | None = None
    weight_version: str | None = None
