"""What the inference engine did: requests, steps, members, transfers, metrics."""

from __future__ import annotations

from warpline.schema.declare import (
    END,
    NODE,
    PROCESS,
    SIMULATED,
    START,
    TIME,
    Table,
    flag,
    integer,
    json,
    name,
    number,
    text,
    trace_id,
)
from warpline.schema.declare import span_id as _span_id

_ENGINE = (
    NODE,
    PROCESS,
    integer("engine_index", "Data-parallel rank of the engine."),
)

ENGINE_REQUEST = Table(
    "engine_request",
    "One request inside one engine; written again with each change, the last row holds.",
    (
        START,
        END,
        *_ENGINE,
        text("internal_id", "Engine's id of the request, unique in the engine.", required=True),
        text("external_id", "Id that the API server gave it (chatcmpl-…).", "gen_ai.request.id"),
        trace_id("From the trace headers that travelled with it."),
        _span_id("parent_span_id", "Caller's span id, from the same headers."),
        name("model", "Model.", "gen_ai.request.model"),
        integer("prompt_tokens", "Length of the prompt.", "gen_ai.usage.input_tokens"),
        integer("cached_tokens", "Prompt tokens found in the prefix cache."),
        integer("computed_tokens", "Prompt tokens computed."),
        integer("output_tokens", "Tokens put out.", "gen_ai.usage.output_tokens"),
        integer("preemptions", "How often it was preempted."),
        name("finish_reason", "stop, length, abort, error.", "gen_ai.response.finish_reasons"),
        name("role", "prefill, decode or whole."),
        text("remote_request_id", "Prefill engine's id of the request (NIXL)."),
        text("transfer_id", "Id of the KV transfer (Mooncake, SGLang's bootstrap room)."),
        name("observed_by", "Source that saw it."),
        SIMULATED,
    ),
    keys=("internal_id",),
)

ENGINE_EVENT = Table(
    "engine_event",
    "One change of a request's state in its engine.",
    (
        TIME,
        *_ENGINE,
        text("internal_id", "Engine's id of the request.", required=True),
        name("kind", "queued, scheduled, preempted, resumed, first_token, finished, aborted.", required=True),
        integer("step_ordinal", "Engine step in which it happened."),
        name("observed_by", "Source that saw it."),
        SIMULATED,
    ),
    keys=("internal_id",),
)

ENGINE_STEP = Table(
    "engine_step",
    "One scheduler iteration, as one rank ran it: one batch through the model.",
    (
        START,
        END,
        *_ENGINE,
        integer("rank", "Tensor- or pipeline-parallel rank; NULL for the scheduler's own row."),
        integer("ordinal", "Step's number in its engine.", required=True),
        integer("thread_id", "Thread that ran it."),
        integer("requests", "Requests in the batch."),
        integer("context_tokens", "Prefill tokens scheduled."),
        integer("generation_tokens", "Decode tokens scheduled."),
        integer("scheduled_tokens", "Tokens scheduled in all."),
        integer("padded_tokens", "Rows that the model computed, padding included."),
        integer("preempted", "Requests preempted when it was scheduled."),
        integer("recomputed_tokens", "Tokens computed a second time after preemption."),
        flag("dummy", "True for a step that no request caused."),
        integer("member_hash", "Hash of the member ids and token counts, to pair ranks."),
        integer("recording_rank", "Rank in a recording."),
        name("recording_uid", "Recording that holds it."),
        text("annotation", "The engine's own words, in a recording."),
        name("observed_by", "Source that saw it."),
        SIMULATED,
    ),
    keys=("process_uid", "ordinal"),
)

STEP_MEMBER = Table(
    "step_member",
    "The step ledger: one row per engine step and request in it.",
    (
        TIME,
        *_ENGINE,
        integer("step_ordinal", "Step's number in its engine.", required=True),
        text("internal_id", "Engine's id of the request.", required=True),
        integer("scheduled_tokens", "Tokens scheduled for it.", required=True),
        integer("computed_before_tokens", "Its context: tokens computed before this step."),
        integer("cached_tokens", "Tokens that the prefix cache saved it at this step."),
        integer("draft_tokens", "Draft tokens among those scheduled."),
        integer("accepted_tokens", "Draft tokens accepted."),
        integer("recomputed_tokens", "Tokens that it had computed before and lost."),
        flag("sampled", "True where it put out a token."),
        name("phase", "prefill, decode, recompute, draft."),
        name("level", "plugin, wire, batches, totals, windows, spans, sockets: what it is known from.", required=True),
        name("evidence", "exact, derived, estimated, unknown.", required=True),
        number("confidence", "Probability that it is right."),
        SIMULATED,
    ),
    keys=("process_uid", "step_ordinal"),
)

ENGINE_EMISSION = Table(
    "engine_emission",
    "What one message of the engine wire says of one request: how many tokens it got. Token ids are never kept.",
    (
        TIME,
        *_ENGINE,
        integer("message", "Message's number on the wire."),
        text("internal_id", "Engine's id of the request.", required=True),
        integer("new_tokens", "Tokens put out.", required=True),
        name("finish_reason", "NULL while it goes on."),
        integer("prompt_tokens", "Length of the prompt, with the first tokens."),
        integer("computed_tokens", "Prompt tokens computed, with the first tokens."),
        integer("cached_tokens", "Prompt tokens cached, with the first tokens."),
        SIMULATED,
    ),
    keys=("process_uid", "message"),
)

ENGINE_MESSAGE = Table(
    "engine_message",
    "One message from the engine to its API server: what one step did, in totals.",
    (
        TIME,
        *_ENGINE,
        integer("message", "Message's number on the wire.", required=True),
        integer("engine_time_ns", "The engine's own time stamp in it, in node time."),
        integer("running", "Requests running."),
        integer("waiting", "Requests waiting."),
        number("kv_used_ratio", "Share of the KV cache in use."),
        integer("context_tokens", "Prefill tokens of the step, where it says so."),
        integer("generation_tokens", "Decode tokens of the step, where it says so."),
        integer("preempted_requests", "Requests resumed after preemption since the last message."),
        integer("preempted_queried_tokens", "Tokens that they looked up in the prefix cache."),
        integer("preempted_hit_tokens", "Tokens that they found there."),
        integer("drafted_requests", "Requests of the step that had drafts; NULL for none, or where it does not say."),
        integer("draft_tokens", "Draft tokens that they had, accepted or not."),
        integer("message_bytes", "Length of the message."),
        SIMULATED,
    ),
    keys=("process_uid", "message"),
)

KV_TRANSFER = Table(
    "kv_transfer",
    "One transfer of KV cache into an engine, from a prefill engine or a store of caches, or out of one.",
    (
        START,
        END,
        NODE,
        PROCESS,
        text("internal_id", "Request's id at this end."),
        text("transfer_id", "Id that both ends know."),
        name("direction", "sent or received."),
        integer("transfer_bytes", "Bytes moved."),
        integer("descriptors", "Descriptors moved."),
        name("outcome", "done, failed, or aborted where its request ended first; of what is sent none is told."),
        SIMULATED,
    ),
)

ENGINE_SAMPLE = Table(
    "engine_sample",
    "One reading of one of an engine's own metrics, in one vocabulary for all engines.",
    (
        TIME,
        name("node", "Node that the engine runs on, where known.", "k8s.node.name"),
        name("target", "Address that was scraped.", required=True),
        name("engine", "vllm, sglang, triton, tensorrt_llm, tgi.", required=True),
        name("pod_uid", "Pod, where known.", "k8s.pod.uid"),
        name("model", "Model.", "gen_ai.request.model"),
        integer("engine_index", "Data-parallel rank."),
        name("metric", "Name in the vocabulary, such as requests.waiting or ttft.", required=True),
        name("part", "Which part of it: a finish reason, a source, a waiting reason; NULL the whole. Never add to it."),
        name("statistic", "value, sum, count, p50, p90, p99, or bucket.", required=True),
        number("upper_bound", "A bucket's upper bound, in the metric's unit."),
        number("value", "Reading, in base units.", required=True),
        flag("monotonic", "True for what only grows between restarts."),
        SIMULATED,
    ),
    keys=("metric", "target"),
)

ENGINE_PHASE = Table(
    "engine_phase",
    "One phase of one request, as an engine's trace told it (Triton's trace file).",
    (
        START,
        END,
        NODE,
        PROCESS,
        text("request_id", "Client's or engine's id of the request."),
        trace_id("Trace id, where known."),
        name(
            "phase",
            "request, receive, queue, cache_lookup, compute_input, compute, compute_output, send, or prefill, decode.",
            required=True,
        ),
        name("model", "Model.", "gen_ai.request.model"),
        integer("thread_id", "Thread or instance that ran it."),
        text("parent_id", "Engine's id of the parent."),
        name("recording_uid", "Recording that holds it."),
        json("details", "What else it said, none of it content."),
    ),
)

ENGINE_TABLES = (
    ENGINE_REQUEST,
    ENGINE_EVENT,
    ENGINE_STEP,
    STEP_MEMBER,
    ENGINE_EMISSION,
    ENGINE_MESSAGE,
    KV_TRANSFER,
    ENGINE_SAMPLE,
    ENGINE_PHASE,
)
