-- One request in one batch of SGLang, as its own trace tells it (`--enable-trace`, level 3): the event `schedule` bears the
-- batch's id on a span of each of its requests. Times are of the wall clock of the scheduler's node; `thread_id` is the
-- scheduler's, as its process sees it. A request whose own span was lost has no name.
WITH RECURSIVE told AS (
    SELECT DISTINCT trace_id, span_id, parent_span_id, name, attributes, events, node,
        concat(node, '/', resource ->> 'service.instance.id') AS sender
    FROM span
    WHERE contains(lower(concat(scope, ' ', service)), 'sglang')
        AND start_ns >= $since_ns - 600000000000 AND start_ns < $until_ns
),
-- From the span that bears an event up to the thread's, which names the thread, and the request's, which names the request.
above AS (
    SELECT trace_id, span_id, parent_span_id, attributes FROM told WHERE events IS NOT NULL
    UNION
    SELECT above.trace_id, above.span_id, told.parent_span_id, told.attributes
    FROM above
    JOIN told ON told.trace_id = above.trace_id AND told.span_id = above.parent_span_id
),
named AS (
    SELECT trace_id, span_id,
        max(attributes ->> 'rid') AS internal_id,
        max(try_cast(attributes ->> 'pid' AS BIGINT)) AS thread_id,
        max(try_cast(attributes ->> 'gen_ai.usage.prompt_tokens' AS BIGINT)) AS prompt_tokens,
        max(try_cast(attributes ->> 'gen_ai.usage.cached_tokens' AS BIGINT)) AS cached_tokens
    FROM above
    GROUP BY ALL
),
event AS (
    SELECT trace_id, span_id, node, sender, unnest(from_json(events, '["JSON"]')) AS event
    FROM told
    WHERE events IS NOT NULL
),
retracted AS (
    SELECT internal_id, try_cast(event ->> 'time_ns' AS BIGINT) AS time_ns
    FROM event
    JOIN named USING (trace_id, span_id)
    WHERE event ->> 'name' = 'retract'
    GROUP BY ALL
),
scheduled AS (
    SELECT trace_id, span_id, node, sender, event -> 'attributes' ->> 'bid' AS batch, event -> 'attributes' ->> 'forward_mode' AS mode,
        try_cast(event -> 'attributes' ->> 'batch_size' AS BIGINT) AS requests, try_cast(event ->> 'time_ns' AS BIGINT) AS time_ns
    FROM event
    WHERE event ->> 'name' = 'schedule'
),
-- A span whose thread's was lost is of the thread that the batch's others are of.
placed AS (
    SELECT scheduled.*, internal_id, prompt_tokens, cached_tokens,
        coalesce(thread_id, max(thread_id) OVER (PARTITION BY sender, batch)) AS thread_id
    FROM scheduled
    JOIN named USING (trace_id, span_id)
    -- A batch that took over what a prefill elsewhere had computed runs nothing.
    WHERE batch IS NOT NULL AND time_ns IS NOT NULL AND mode IS DISTINCT FROM 'prebuilt'
)
SELECT sender, any_value(node) AS node, thread_id, batch, any_value(mode) AS mode, max(requests) AS requests,
    min(time_ns) AS time_ns, internal_id, max(prompt_tokens) AS prompt_tokens, max(cached_tokens) AS cached_tokens,
    (SELECT count(*) FROM retracted WHERE retracted.internal_id = placed.internal_id AND retracted.time_ns <= min(placed.time_ns))
        AS retracts,
    -- With drafts a decode is of several rows, and nobody says how many.
    bool_or(trace_id IN (SELECT trace_id FROM told WHERE name = 'spec_verify')) AS drafts
FROM placed
WHERE thread_id IS NOT NULL
GROUP BY sender, thread_id, batch, internal_id
ORDER BY sender, thread_id, time_ns, batch, internal_id
