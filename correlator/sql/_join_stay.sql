-- One request's time in an engine as its span or its socket tells it: the span where there is one. Tokens that a socket does
-- not tell are guessed: four bytes of a prompt are a token, and each chunk of a streamed answer is one.
-- within: engine_request 0 s, engine_message 0 s, http_exchange 0 s
WITH told AS (
    -- What an engine tells of itself was not in another process that is seen on a GPU and says nothing.
    SELECT internal_id, external_id FROM engine_request
    WHERE start_ns >= $since_ns AND start_ns < $until_ns AND process_uid IN (
        SELECT process_uid FROM engine_message WHERE time_ns >= $since_ns AND time_ns < $until_ns
    )
),
exchange AS (
    SELECT response_id, process_uid, request_end_ns, first_body_ns, last_chunk_ns, request_bytes, response_bytes, chunks
    FROM http_exchange
    WHERE side = 'server' AND response_id IS NOT NULL AND last_chunk_ns IS NOT NULL
        AND start_ns >= $since_ns AND start_ns < $until_ns
        AND response_id NOT IN (SELECT external_id FROM told WHERE external_id IS NOT NULL)
    -- A proxy's exchange has the same response id: the engine's own began last.
    QUALIFY row_number() OVER (PARTITION BY response_id ORDER BY start_ns DESC, end_ns DESC) = 1
),
spoken AS (
    SELECT request_id AS internal_id,
        max(start_ns - position_error_ns) FILTER (phase = 'prefill') AS scheduled_ns,
        max(end_ns) FILTER (phase = 'first_token') AS first_token_ns,
        coalesce(max(end_ns) FILTER (phase = 'decode'), max(end_ns) FILTER (phase = 'first_token')) AS last_token_ns,
        any_value(input_tokens) AS prompt_tokens,
        any_value(output_tokens) AS output_tokens
    FROM engine_span_phase
    WHERE request_id IS NOT NULL AND start_ns >= $since_ns AND start_ns < $until_ns
        AND request_id NOT IN (
            SELECT external_id FROM told WHERE external_id IS NOT NULL UNION ALL SELECT internal_id FROM told
        )
    GROUP BY request_id
    HAVING max(end_ns) FILTER (phase = 'first_token') IS NOT NULL AND max(start_ns) FILTER (phase = 'prefill') IS NOT NULL
)
SELECT 'spans' AS level, spoken.*, exchange.process_uid
FROM spoken
LEFT JOIN exchange ON exchange.response_id = spoken.internal_id
UNION ALL
SELECT 'sockets', response_id, request_end_ns,
    CASE WHEN chunks > 2 THEN first_body_ns END, last_chunk_ns,
    greatest(request_bytes // 4, 1),
    CASE WHEN chunks > 2 THEN chunks - 1 ELSE greatest(response_bytes // 4, 1) END,
    process_uid
FROM exchange
WHERE response_id NOT IN (SELECT internal_id FROM spoken)
ORDER BY level, internal_id
