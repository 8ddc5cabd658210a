-- One phase of one request, as a span of its engine tells it: vLLM, SGLang, TensorRT-LLM and Triton by their own spans,
-- llm-d's router by its. `clock` says which clock a duration is on, and `position_error_ns` how far the phase may be shifted.
--
-- vLLM's span, and those that speak its words, begin at the arrival, by the wall clock, and say how long the phases took, by
-- the engine core's monotonic clock: durations are exact, positions follow. The first token stands at arrival plus time to
-- first token; prefill ends there, and the queue ends where prefill begins. What time to first token holds beyond both
-- (tokenizing, crossing processes) may lie before the queue or after prefill: that is the error of their position.
--
-- Only the first scheduling counts there: a preemption hides inside prefill or decode, so `preemptions` stands beside it
-- where the engine's own record is known. A request without a first token (aborted, or failed) has no phases but its own.
-- vLLM's fallback to the environment's traceparent gives requests a parent that is not theirs: a parent is exact where the
-- request's socket carried the same trace id, refused (and left out) where it carried another, derived where none was seen.
WITH told AS (
    SELECT
        * EXCLUDE (attributes),
        coalesce(attributes, '{}') AS attributes,
        lower(coalesce(scope, '') || ' ' || coalesce(service, '')) AS sender
    FROM span
    WHERE
        name = 'llm_request'
        OR name LIKE 'vllm\_%' ESCAPE '\'
        OR contains(attributes, '"gen_ai.latency.')
        OR contains(attributes, 'model_name"')
        OR contains(lower(coalesce(scope, '') || coalesce(service, '')), 'llm-d')
        OR contains(lower(coalesce(scope, '') || coalesce(service, '')), 'sglang')
        OR contains(lower(coalesce(scope, '') || coalesce(service, '')), 'inference-extension')
),
engine_span AS (
    SELECT
        *,
        CASE
            WHEN contains(sender, 'llm-d') OR contains(sender, 'inference-extension') THEN 'llm_d'
            WHEN contains(sender, 'sglang') THEN 'sglang'
            WHEN contains(sender, 'tensorrt') OR contains(sender, 'trtllm') THEN 'tensorrt_llm'
            WHEN attributes ->> 'gen_ai.latency.kv_cache_transfer_time' IS NOT NULL THEN 'tensorrt_llm'
            WHEN name = 'llm_request' OR starts_with(name, 'vllm_') OR contains(attributes, '"gen_ai.latency.') THEN 'vllm'
            ELSE 'triton'
        END AS engine,
        coalesce(request_id, attributes ->> 'triton.request_id', attributes ->> 'request_id') AS engine_request_id,
        -- One prompt of several, and one request of a batch, come from one call: cmpl-<id>-<n>, chatcmpl-<id>_<n>.
        regexp_replace(
            regexp_replace(request_id, '^(cmpl-.*[^-])-[0-9]+$', '\1'), '^(chatcmpl-.*)_[0-9]+$', '\1'
        ) AS call_id,
        (try_cast(attributes ->> 'gen_ai.latency.time_in_queue' AS DOUBLE) * 1e9)::BIGINT AS queue_ns,
        (try_cast(attributes ->> 'gen_ai.latency.time_to_first_token' AS DOUBLE) * 1e9)::BIGINT AS ttft_ns,
        (try_cast(attributes ->> 'gen_ai.latency.e2e' AS DOUBLE) * 1e9)::BIGINT AS e2e_ns,
        (try_cast(attributes ->> 'gen_ai.latency.time_in_model_prefill' AS DOUBLE) * 1e9)::BIGINT AS prefill_ns,
        (try_cast(attributes ->> 'gen_ai.latency.time_in_model_decode' AS DOUBLE) * 1e9)::BIGINT AS decode_ns,
        (try_cast(attributes ->> 'gen_ai.latency.kv_cache_transfer_time' AS DOUBLE) * 1e9)::BIGINT AS transfer_ns,
        (try_cast(attributes ->> 'gen_ai.latency.time_in_scheduler' AS DOUBLE) * 1e9)::BIGINT AS scheduler_ns,
        -- In milliseconds, unlike all others.
        (try_cast(attributes ->> 'gen_ai.latency.time_in_model_forward' AS DOUBLE) * 1e6)::BIGINT AS forward_ns
    FROM told
),
-- Which trace the request's own socket carried.
socket AS (
    SELECT response_id AS call_id, any_value(trace_id) AS trace_id, count(DISTINCT trace_id) AS traces
    FROM http_exchange
    WHERE response_id IS NOT NULL AND trace_id IS NOT NULL
    GROUP BY response_id
),
record AS (
    SELECT external_id, max(preemptions) AS preemptions
    FROM engine_request
    WHERE external_id IS NOT NULL
    GROUP BY external_id
),
placed AS (
    SELECT
        engine_span.*,
        start_ns + ttft_ns AS first_token_ns,
        greatest(0, ttft_ns - coalesce(queue_ns, 0) - coalesce(prefill_ns, 0)) AS slack_ns
    FROM engine_span
),
-- Phases whose duration a span of vLLM's words says.
spoken AS (
    SELECT span_id, trace_id, 'request' AS phase, start_ns, end_ns, coalesce(e2e_ns, end_ns - start_ns) AS duration_ns,
        'wall' AS clock, 0::BIGINT AS position_error_ns
    FROM placed WHERE name = 'llm_request' OR ttft_ns IS NOT NULL OR e2e_ns IS NOT NULL
    UNION ALL
    SELECT span_id, trace_id, 'first_token', start_ns, first_token_ns, ttft_ns, 'wall', 0
    FROM placed WHERE ttft_ns IS NOT NULL
    UNION ALL
    SELECT span_id, trace_id, 'queue', first_token_ns - coalesce(prefill_ns, 0) - queue_ns,
        first_token_ns - coalesce(prefill_ns, 0), queue_ns, 'monotonic', slack_ns
    FROM placed WHERE ttft_ns IS NOT NULL AND queue_ns IS NOT NULL
    UNION ALL
    SELECT span_id, trace_id, 'prefill', first_token_ns - prefill_ns, first_token_ns, prefill_ns, 'monotonic', slack_ns
    FROM placed WHERE ttft_ns IS NOT NULL AND prefill_ns IS NOT NULL
    UNION ALL
    SELECT span_id, trace_id, 'decode', first_token_ns, first_token_ns + decode_ns, decode_ns, 'monotonic', slack_ns
    FROM placed WHERE ttft_ns IS NOT NULL AND decode_ns IS NOT NULL
    UNION ALL
    -- Sums over the request's life: how long, not when.
    SELECT span_id, trace_id, phase, start_ns, NULL, duration_ns, 'monotonic', NULL
    FROM (
        SELECT span_id, trace_id, start_ns, transfer_ns AS duration_ns, 'kv_transfer' AS phase FROM placed
        UNION ALL SELECT span_id, trace_id, start_ns, scheduler_ns, 'scheduler' FROM placed
        UNION ALL SELECT span_id, trace_id, start_ns, forward_ns, 'model_forward' FROM placed
    )
    WHERE duration_ns IS NOT NULL
),
-- Spans that are a phase themselves.
stage AS (
    SELECT
        span_id,
        trace_id,
        CASE
            WHEN engine = 'llm_d' THEN 'routing'
            WHEN contains(lower(name), 'queue') OR contains(lower(name), 'waiting') THEN 'queue'
            WHEN contains(lower(name), 'prefill') THEN 'prefill'
            WHEN contains(lower(name), 'decode') THEN 'decode'
            WHEN contains(lower(name), 'kv_transfer') THEN 'kv_transfer'
        END AS phase,
        start_ns,
        end_ns,
        end_ns - start_ns AS duration_ns,
        'wall' AS clock,
        0::BIGINT AS position_error_ns
    FROM placed
    WHERE ttft_ns IS NULL AND e2e_ns IS NULL AND engine IN ('vllm', 'sglang', 'llm_d') AND name <> 'llm_request'
),
-- Triton in its OpenTelemetry mode writes the same marks as its trace file, as events, by the wall clock.
mark AS (
    SELECT span_id, trace_id, event ->> 'name' AS name, min(try_cast(event ->> 'time_ns' AS BIGINT)) AS time_ns
    FROM (SELECT span_id, trace_id, unnest(from_json(events, '["JSON"]')) AS event FROM placed WHERE engine = 'triton')
    GROUP BY ALL
),
triton AS (
    SELECT began.span_id, began.trace_id, pair.phase, began.time_ns AS start_ns, ended.time_ns AS end_ns,
        ended.time_ns - began.time_ns AS duration_ns, 'wall' AS clock, 0::BIGINT AS position_error_ns
    FROM (
        VALUES
            ('REQUEST_START', 'REQUEST_END', 'request'),
            ('QUEUE_START', 'COMPUTE_START', 'queue'),
            ('COMPUTE_START', 'COMPUTE_INPUT_END', 'compute_input'),
            ('COMPUTE_INPUT_END', 'COMPUTE_OUTPUT_START', 'compute'),
            ('COMPUTE_OUTPUT_START', 'COMPUTE_END', 'compute_output')
    ) AS pair (first, last, phase)
    JOIN mark AS began ON began.name = pair.first
    JOIN mark AS ended ON ended.name = pair.last AND ended.span_id = began.span_id AND ended.trace_id = began.trace_id
),
phase AS (
    SELECT * FROM spoken
    UNION ALL SELECT * FROM stage WHERE phase IS NOT NULL
    UNION ALL SELECT * FROM triton
)
SELECT
    phase.phase,
    phase.start_ns,
    phase.end_ns,
    phase.duration_ns,
    phase.clock,
    phase.position_error_ns,
    CASE WHEN phase.position_error_ns = 0 THEN 'exact' ELSE 'derived' END AS position_evidence,
    placed.engine,
    placed.engine_request_id AS request_id,
    placed.trace_id,
    placed.span_id,
    CASE WHEN socket.traces = 1 AND socket.trace_id <> placed.trace_id THEN NULL ELSE placed.parent_span_id END
        AS parent_span_id,
    CASE
        WHEN placed.parent_span_id IS NULL THEN NULL
        WHEN socket.traces IS NULL OR socket.traces > 1 THEN 'derived'
        WHEN socket.trace_id = placed.trace_id THEN 'exact'
        ELSE 'refused'
    END AS parent_evidence,
    coalesce(
        placed.model, placed.attributes ->> 'gen_ai.response.model', placed.attributes ->> 'triton.model_name',
        placed.attributes ->> 'model_name'
    ) AS model,
    coalesce(placed.input_tokens, try_cast(placed.attributes ->> 'gen_ai.usage.prompt_tokens' AS BIGINT)) AS input_tokens,
    coalesce(placed.output_tokens, try_cast(placed.attributes ->> 'gen_ai.usage.completion_tokens' AS BIGINT))
        AS output_tokens,
    record.preemptions,
    placed.status,
    placed.service,
    placed.node,
    placed.pod,
    placed.pod_uid
FROM phase
JOIN placed ON placed.span_id = phase.span_id AND placed.trace_id = phase.trace_id
LEFT JOIN socket ON socket.call_id = placed.call_id
LEFT JOIN record ON record.external_id = placed.request_id
