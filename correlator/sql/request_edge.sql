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
carried AS (
    SELECT concat_ws('/', node, connection_id, ordinal, side) AS uid, node, side, start_ns,
        concat(local_address, ':', local_port) AS local, concat(peer_address, ':', peer_port) AS peer
    FROM http_exchange
    WHERE start_ns >= $since_ns AND start_ns < $until_ns AND concat_ws('/', node, connection_id, ordinal, side) IN (SELECT id FROM own)
),
logged AS (
    SELECT *, concat_ws('/', node, proxy, start_ns, request_id) AS uid, details ->> 'upstream_local_address' AS onward
    FROM hop
    WHERE start_ns >= $since_ns - 1000000000 AND start_ns < $until_ns
        -- Envoy keeps its sampling decision in one digit of x-request-id.
        AND (regexp_replace(request_id, '^(.{14})[0-9a-f](.{21})$', '\1.\2')
            IN (SELECT regexp_replace(id, '^(.{14})[0-9a-f](.{21})$', '\1.\2') FROM own)
            OR (request_id IS NULL AND replace(trace_id::VARCHAR, '-', '') IN (SELECT id FROM own)))
),
-- The log's own word on its two connections names the exchanges: of several on one connection, the one begun at that time.
hops AS (
    SELECT logged.start_ns AS time_ns, 'http_exchange' AS from_kind, carried.uid AS from_id, 'hop' AS to_kind, logged.uid AS to_id,
        'logged_as' AS relation, logged.clock_error_ns, logged.uid AS hop
    FROM logged JOIN carried ON carried.side = 'server' AND carried.node = logged.node AND carried.peer = logged.downstream_address
    QUALIFY row_number() OVER (PARTITION BY logged.uid ORDER BY abs(carried.start_ns - logged.start_ns)) = 1
    UNION ALL
    SELECT logged.start_ns, 'hop', logged.uid, 'http_exchange', carried.uid, 'relayed_as', logged.clock_error_ns, logged.uid
    FROM logged JOIN carried ON carried.side = 'client' AND carried.node = logged.node AND carried.local = logged.onward
    QUALIFY row_number() OVER (PARTITION BY logged.uid ORDER BY abs(carried.start_ns - logged.start_ns)) = 1
),
members AS (
    SELECT DISTINCT process_uid, step_ordinal, internal_id, time_ns, evidence, level, confidence
    FROM step_member
    WHERE internal_id IN (SELECT id FROM own) AND time_ns >= $since_ns AND time_ns < $until_ns
),
steps AS (
    SELECT internal_id, process_uid, count(DISTINCT step_ordinal) AS amount, min(time_ns) AS time_ns,
        max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence,
        max_by(level, list_position(['plugin', 'wire', 'totals', 'spans', 'sockets'], level)) AS level, avg(confidence) AS confidence
    FROM members
    GROUP BY internal_id, process_uid
),
-- A step's launches are the engine's own, or those of its workers.
launches AS (
    SELECT DISTINCT members.internal_id, launch.process_uid, launch.session, launch.correlation_id, launch.step_ordinal, launch.start_ns
    FROM members
    JOIN (SELECT process_uid, process_uid AS engine FROM steps UNION SELECT process.process_uid, process.parent_uid FROM process
        WHERE process.parent_uid IN (SELECT process_uid FROM steps)) AS family ON family.engine = members.process_uid
    JOIN launch ON launch.process_uid = family.process_uid AND launch.step_ordinal = members.step_ordinal
    WHERE launch.start_ns >= $since_ns AND launch.start_ns < $until_ns AND launch.recording_uid IS NULL
        AND launch.correlation_id IS NOT NULL
),
executions AS (
    SELECT launches.internal_id, launches.process_uid, gpu_kernel.gpu_uuid, count(*) AS amount,
        count(DISTINCT (launches.session, launches.correlation_id)) AS calls, min(gpu_kernel.start_ns) AS time_ns,
        bool_and(coalesce(gpu_kernel.validity, 'ok') = 'ok') AS timed
    FROM launches
    JOIN gpu_kernel ON gpu_kernel.process_uid = launches.process_uid AND gpu_kernel.correlation_id = launches.correlation_id
        AND gpu_kernel.session IS NOT DISTINCT FROM launches.session
    WHERE gpu_kernel.start_ns >= $since_ns AND gpu_kernel.start_ns < $until_ns + 60000000000 AND gpu_kernel.recording_uid IS NULL
    GROUP BY ALL
),
gpus AS (
    SELECT owner, process_uid, gpu_uuid, count(DISTINCT step_ordinal) AS amount, min(time_ns) AS time_ns,
        max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence
    FROM share
    WHERE owner IN (SELECT id FROM own) AND time_ns >= $since_ns AND time_ns < $until_ns
    GROUP BY ALL
)
SELECT time_ns, from_kind, from_id, to_kind, to_id, relation, evidence, rule, confidence, error_low_ns, error_high_ns, alternatives
FROM edge
WHERE from_id IN (SELECT id FROM own) AND (to_id IN (SELECT id FROM own) OR relation IN ('retried', 'prefilled_by'))
UNION ALL
SELECT time_ns, from_kind, from_id, to_kind, to_id, relation, 'exact', 'request_id_and_address', 1.0, -clock_error_ns, clock_error_ns, 0
FROM hops
UNION ALL
SELECT time_ns, 'engine_request', concat(process_uid, '/', internal_id), 'engine_step', concat(amount, ' steps of ', internal_id),
    'scheduled_in', evidence, level, confidence, 0, 0, 0
FROM steps
UNION ALL
SELECT min(start_ns), 'engine_step', any_value(concat(steps.amount, ' steps of ', steps.internal_id)), 'launch',
    concat(count(*), ' launches of ', launches.process_uid), 'launched', 'exact', 'step_ordinal', 1.0, 0, 0, 0
FROM launches JOIN steps ON steps.internal_id = launches.internal_id
GROUP BY launches.internal_id, launches.process_uid
UNION ALL
SELECT executions.time_ns, 'launch', concat(calls_of.amount, ' launches of ', executions.process_uid), 'gpu_kernel',
    concat(executions.amount, ' executions on ', gpu_uuid), 'executed_as', CASE WHEN timed THEN 'exact' ELSE 'derived' END,
    'correlation_id', CASE WHEN timed THEN 1.0 END, 0, 0, calls_of.amount - calls_of.ids
FROM executions
JOIN (SELECT internal_id, process_uid, count(*) AS amount, count(DISTINCT (session, correlation_id)) AS ids FROM launches GROUP BY ALL)
    AS calls_of ON calls_of.internal_id = executions.internal_id AND calls_of.process_uid = executions.process_uid
UNION ALL
SELECT time_ns, 'engine_step', concat(amount, ' steps of ', owner), 'gpu_kernel', gpu_uuid, 'ran', evidence, 'correlation_id',
    CASE WHEN evidence = 'exact' THEN 1.0 END, 0, 0, 0
FROM gpus
ORDER BY 1
