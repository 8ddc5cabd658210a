-- One statement of the joins on the way of a request from the client's socket to its GPU executions: what belongs to what,
-- known by which rule and how well. Steps, launches and executions are counted, not listed.
-- parameters: request, since_ns, until_ns
WITH found AS (
    SELECT DISTINCT attempt_uid FROM alias
    WHERE request_uid IN (SELECT request_uid FROM alias WHERE $request::VARCHAR IN (value, attempt_uid, request_uid)
        -- A request_uid of `request` names its exchange: node/side/process/connection/ordinal/start.
        OR value = concat_ws('/', split_part($request::VARCHAR, '/', 1), split_part($request::VARCHAR, '/', -3),
            split_part($request::VARCHAR, '/', -2), split_part($request::VARCHAR, '/', 2)))
),
thing AS (
    SELECT value AS id FROM alias WHERE attempt_uid IN (SELECT attempt_uid FROM found)
    UNION
    SELECT concat(scope, '/', value) FROM alias WHERE kind = 'internal_id' AND attempt_uid IN (SELECT attempt_uid FROM found)
    UNION
    SELECT attempt_uid FROM found
),
own AS (SELECT id FROM thing UNION SELECT $request::VARCHAR),
steps AS (
    SELECT internal_id, process_uid, count(DISTINCT step_ordinal) AS amount, min(time_ns) AS time_ns, max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence,
        max_by(level, list_position(['plugin', 'wire', 'totals', 'spans', 'sockets'], level)) AS level, avg(confidence) AS confidence
    FROM step_member
    WHERE internal_id IN (SELECT id FROM own) AND time_ns >= $since_ns AND time_ns < $until_ns
    GROUP BY internal_id, process_uid
),
gpus AS (
    SELECT owner, process_uid, gpu_uuid, count(DISTINCT step_ordinal) AS amount, min(time_ns) AS time_ns, max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence
    FROM share
    WHERE owner IN (SELECT id FROM own) AND time_ns >= $since_ns AND time_ns < $until_ns
    GROUP BY ALL
)
SELECT time_ns, from_kind, from_id, to_kind, to_id, relation, evidence, rule, confidence, error_low_ns, error_high_ns, alternatives
FROM edge
WHERE from_id IN (SELECT id FROM own) AND (to_id IN (SELECT id FROM own) OR relation IN ('retried', 'prefilled_by'))
UNION ALL
SELECT time_ns, 'engine_request', concat(process_uid, '/', internal_id), 'engine_step', concat(amount, ' steps'), 'scheduled_in',
    evidence, level, confidence, NULL, NULL, 0
FROM steps
UNION ALL
SELECT time_ns, 'engine_step', concat(amount, ' steps of ', owner), 'gpu_kernel', gpu_uuid, 'ran', evidence, 'correlation_id', NULL,
    NULL, NULL, 0
FROM gpus
ORDER BY 1
