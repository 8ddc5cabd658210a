-- One attempt of a request inside the engines that served it: tokens, phases and what it waited for. Joined by the ids that
-- the joins found (`alias`), never by time; `exchange_uid` is node/connection/ordinal/side of an exchange that carried it.
-- parts: alias 120 s, engine_request 120 s, engine_event 120 s, engine_emission 120 s
WITH last_request AS (
    SELECT *
    FROM engine_request
    QUALIFY row_number() OVER (
        PARTITION BY process_uid, internal_id ORDER BY end_ns DESC NULLS LAST, output_tokens DESC NULLS LAST
    ) = 1
),
marks AS (
    SELECT
        process_uid,
        internal_id,
        min(time_ns) FILTER (WHERE kind = 'queued') AS queued_ns,
        min(time_ns) FILTER (WHERE kind IN ('scheduled', 'resumed')) AS scheduled_ns,
        min(time_ns) FILTER (WHERE kind = 'first_token') AS first_token_ns,
        max(time_ns) FILTER (WHERE kind IN ('finished', 'aborted')) AS finished_ns,
        count(DISTINCT time_ns) FILTER (WHERE kind = 'preempted') AS preemptions
    FROM engine_event
    GROUP BY process_uid, internal_id
),
said AS (
    SELECT
        process_uid,
        internal_id,
        min(time_ns) FILTER (WHERE new_tokens > 0) AS first_ns,
        max(time_ns) FILTER (WHERE new_tokens > 0) AS last_ns,
        sum(new_tokens)::BIGINT AS tokens,
        max(prompt_tokens) AS prompt_tokens,
        max(cached_tokens) AS cached_tokens,
        max(computed_tokens) AS computed_tokens,
        max(finish_reason) AS finish_reason
    FROM engine_emission
    GROUP BY process_uid, internal_id
),
named AS (
    SELECT attempt_uid, any_value(request_uid) AS request_uid, scope AS process_uid, value AS internal_id, max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence
    FROM alias
    WHERE kind = 'internal_id'
    GROUP BY attempt_uid, scope, value
)
SELECT
    named.attempt_uid,
    named.request_uid,
    named.process_uid,
    named.internal_id,
    coalesce(r.role, 'whole') AS role,
    r.model,
    coalesce(marks.queued_ns, r.start_ns) AS start_ns,
    coalesce(marks.finished_ns, said.last_ns, r.end_ns) AS end_ns,
    marks.scheduled_ns,
    coalesce(marks.first_token_ns, said.first_ns) AS first_token_ns,
    marks.scheduled_ns - coalesce(marks.queued_ns, r.start_ns) AS queue_ns,
    coalesce(marks.first_token_ns, said.first_ns) - marks.scheduled_ns AS prefill_ns,
    coalesce(said.last_ns, marks.finished_ns, r.end_ns) - coalesce(marks.first_token_ns, said.first_ns) AS decode_ns,
    coalesce(r.prompt_tokens, said.prompt_tokens) AS prompt_tokens,
    coalesce(r.cached_tokens, said.cached_tokens) AS cached_tokens,
    coalesce(r.computed_tokens, said.computed_tokens) AS computed_tokens,
    coalesce(r.output_tokens, said.tokens) AS output_tokens,
    coalesce(r.preemptions, marks.preemptions, 0) AS preemptions,
    coalesce(r.finish_reason, said.finish_reason) AS finish_reason,
    r.simulated,
    named.evidence
FROM named
LEFT JOIN last_request AS r ON r.internal_id = named.internal_id AND r.process_uid IS NOT DISTINCT FROM named.process_uid
LEFT JOIN marks ON marks.internal_id = named.internal_id AND marks.process_uid IS NOT DISTINCT FROM named.process_uid
LEFT JOIN said ON said.internal_id = named.internal_id AND said.process_uid IS NOT DISTINCT FROM named.process_uid
