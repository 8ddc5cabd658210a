-- One statement of the joins on the way of a request from the client's socket to its GPU executions: what belongs to what,
-- known by which rule and how well. Steps, launches and executions are counted, not listed.
-- parameters: request, since_ns, until_ns
-- within: alias 3600 s, http_exchange 60 s, edge 3600 s, step_member 0 s, share 0 s, launch 0 s, gpu_kernel 60 s, flow 1 s, hop 1 s
-- within: process_event 1 s, clock_edge 60 s
WITH named AS MATERIALIZED (FROM aliases_of($request::VARCHAR)),
found AS (SELECT DISTINCT attempt_uid FROM named),
thing AS (
    SELECT value AS id FROM named
    UNION
    SELECT concat(scope, '/', value) FROM named WHERE kind = 'internal_id'
    UNION
    SELECT attempt_uid FROM found
),
own AS (SELECT id FROM thing UNION SELECT $request::VARCHAR),
carried AS (
    SELECT concat_ws('/', node, connection_id, ordinal, side) AS uid, node, side, process_uid, connection_id, start_ns,
        coalesce(end_ns, last_chunk_ns, start_ns) AS end_ns,
        concat(local_address, ':', local_port) AS local, concat(peer_address, ':', peer_port) AS peer
    FROM http_exchange
    WHERE start_ns >= $since_ns AND start_ns < $until_ns AND concat_ws('/', node, connection_id, ordinal, side) IN (SELECT id FROM own)
),
stated AS (
    SELECT * FROM edge
    WHERE from_id IN (SELECT id FROM own) AND (to_id IN (SELECT id FROM own) OR relation IN ('retried', 'prefilled_by'))
        -- An edge has the time of one of the things that it joins: all others need not be read.
        AND time_ns >= (SELECT min(time_ns) FROM named) - 60000000000 AND time_ns <= (SELECT max(time_ns) FROM named) + 60000000000
        AND time_ns >= $since_ns - 3600000000000 AND time_ns < $until_ns + 3600000000000
),
-- What the node of the other end is ahead of the first end's, each way round.
ahead AS (
    SELECT time_ns, node, other_node, low_ns, high_ns FROM clock_edge
    WHERE status IN ('ok', 'split', 'prior_only') AND time_ns >= $since_ns - 60000000000 AND time_ns < $until_ns + 60000000000
    UNION ALL
    SELECT time_ns, other_node, node, -high_ns, -low_ns FROM clock_edge
    WHERE status IN ('ok', 'split', 'prior_only') AND time_ns >= $since_ns - 60000000000 AND time_ns < $until_ns + 60000000000
),
beside AS (
    SELECT stated.from_id, stated.to_id, stated.time_ns, ahead.low_ns, ahead.high_ns, abs(ahead.time_ns - stated.time_ns) AS away_ns
    FROM (SELECT DISTINCT from_id, to_id, time_ns FROM stated WHERE error_low_ns IS NULL) AS stated
    JOIN ahead ON ahead.node = split_part(stated.from_id, '/', 1) AND ahead.other_node = split_part(stated.to_id, '/', 1)
    QUALIFY row_number() OVER (PARTITION BY stated.from_id, stated.to_id, stated.time_ns ORDER BY away_ns, ahead.time_ns) = 1
),
-- The bounds hold at their moment; until the edge's the clocks may have drifted apart by 50 ppm, as `clock_offset.py` grants.
bounded AS (
    SELECT from_id, to_id, time_ns, low_ns - ceil(away_ns * 50e-6)::BIGINT AS low_ns, high_ns + ceil(away_ns * 50e-6)::BIGINT AS high_ns
    FROM beside
),
logged AS (
    SELECT node, start_ns, clock_error_ns, downstream_address, concat_ws('/', node, proxy, start_ns, request_id) AS uid,
        details ->> 'upstream_local_address' AS onward
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
-- Both ends of a connection are here, so what was seen on either side of an address translation finds its exchange. On one
-- connection within a second of another exchange it may have been that one's: how many is said.
socket AS (
    SELECT carried.*, (SELECT count(DISTINCT other.ordinal) - 1 FROM http_exchange AS other
        WHERE other.node = carried.node AND other.connection_id = carried.connection_id AND other.side = carried.side
            AND other.start_ns >= $since_ns AND other.start_ns < $until_ns + 60000000000 AND other.start_ns < carried.end_ns + 1000000000
            AND coalesce(other.end_ns, other.last_chunk_ns, other.start_ns) > carried.start_ns - 1000000000) AS alternatives
    FROM carried
),
turned AS (
    SELECT *, local AS sender, peer AS receiver FROM socket
    UNION ALL
    SELECT *, peer, local FROM socket
),
flows AS (
    SELECT time_ns, concat(source_address, ':', source_port) AS sender, concat(destination_address, ':', destination_port) AS receiver,
        concat_ws(' ', verdict, drop_reason, 'at ' || nullif(observation_point, ''), 'on', node) AS said,
        CASE WHEN verdict = 'DROPPED' THEN 'dropped' ELSE 'crossed' END AS relation,
        coalesce(regexp_replace(request_id, '^(.{14})[0-9a-f](.{21})$', '\1.\2')
            IN (SELECT regexp_replace(id, '^(.{14})[0-9a-f](.{21})$', '\1.\2') FROM own), false) AS named
    FROM flow
    WHERE time_ns >= $since_ns - 1000000000 AND time_ns < $until_ns + 1000000000 AND counted
),
hooks AS (
    SELECT time_ns, node, process_uid, concat_ws(' ', name, action, 'of', process_uid) AS said,
        unnest(from_json(details -> 'args', '[{"sock_arg": {"saddr": "VARCHAR", "sport": "VARCHAR", "daddr": "VARCHAR", "dport": "VARCHAR"}}]')).sock_arg AS sock
    FROM process_event
    WHERE time_ns >= $since_ns - 1000000000 AND time_ns < $until_ns + 1000000000 AND details LIKE '%sock_arg%'
),
touched AS (
    SELECT flows.time_ns, turned.uid, 'flow' AS to_kind, said, relation,
        CASE WHEN named THEN 'exact' ELSE 'derived' END AS evidence,
        CASE WHEN named THEN 'request_id_and_address' ELSE 'addresses_and_time' END AS rule,
        CASE WHEN named THEN 0 ELSE alternatives END AS alternatives
    FROM flows
    JOIN turned ON turned.sender = flows.sender AND turned.receiver = flows.receiver
        AND flows.time_ns BETWEEN turned.start_ns - 1000000000 AND turned.end_ns + 1000000000
    UNION ALL
    -- A proxy that Hubble reads may stand between addresses that no socket here has: its x-request-id alone names the request.
    SELECT time_ns, (SELECT any_value(attempt_uid ORDER BY attempt_uid) FROM found), 'flow', said, relation, 'derived', 'request_id', 0
    FROM flows
    ANTI JOIN turned ON turned.sender = flows.sender AND turned.receiver = flows.receiver
    WHERE named
    UNION ALL
    SELECT hooks.time_ns, turned.uid, 'process_event', said, 'touched_by', 'derived', 'addresses_and_time', alternatives
    FROM hooks
    JOIN turned ON turned.sender = concat(sock.saddr, ':', sock.sport) AND turned.receiver = concat(sock.daddr, ':', sock.dport)
        AND turned.node = hooks.node AND hooks.time_ns BETWEEN turned.start_ns - 1000000000 AND turned.end_ns + 1000000000
    UNION ALL
    SELECT start_ns, uid, 'process', process_uid, 'run_by', 'exact', 'process_uid', 0
    FROM carried
    WHERE process_uid IS NOT NULL
),
members AS (
    SELECT DISTINCT process_uid, step_ordinal, internal_id, time_ns, evidence, level, confidence
    FROM step_member
    WHERE internal_id IN (SELECT id FROM own) AND time_ns >= $since_ns AND time_ns < $until_ns
),
steps AS (
    SELECT internal_id, process_uid, count(DISTINCT step_ordinal) AS amount, min(time_ns) AS time_ns,
        max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence,
        max_by(level, list_position(['plugin', 'wire', 'batches', 'totals', 'windows', 'spans', 'sockets'], level)) AS level, avg(confidence) AS confidence
    FROM members
    GROUP BY internal_id, process_uid
),
-- A step's launches are the engine's own, or those of its workers.
launches AS (
    SELECT DISTINCT members.internal_id, launch.process_uid, launch.session, launch.correlation_id, launch.step_ordinal, launch.start_ns,
        launch.end_ns, launch.api
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
        bool_and(coalesce(gpu_kernel.validity, 'ok') = 'ok') AS timed,
        -- What the GPU's clock may be ahead of the host's: nothing runs before its call, and a call that waits for a copy to
        -- the host returns after it. Without such a call nothing bounds it from below.
        max(gpu_kernel.end_ns - launches.end_ns) FILTER (coalesce(gpu_kernel.validity, 'ok') = 'ok' AND gpu_kernel.kind = 'memcpy' AND NOT api ILIKE '%async%'
            AND (api ILIKE '%DtoH%' OR gpu_kernel.name ILIKE '%DtoH%')) AS low_ns,
        min(gpu_kernel.start_ns - launches.start_ns) FILTER (coalesce(gpu_kernel.validity, 'ok') = 'ok') AS high_ns
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
SELECT time_ns, from_kind, from_id, to_kind, to_id, relation, evidence, rule, confidence,
    coalesce(error_low_ns, bounded.low_ns) AS error_low_ns, coalesce(error_high_ns, bounded.high_ns) AS error_high_ns, alternatives
FROM stated
LEFT JOIN bounded USING (from_id, to_id, time_ns)
UNION ALL
SELECT time_ns, from_kind, from_id, to_kind, to_id, relation, 'exact', 'request_id_and_address', 1.0, -clock_error_ns, clock_error_ns, 0
FROM hops
UNION ALL
SELECT min(time_ns), CASE WHEN rule = 'request_id' THEN 'attempt' ELSE 'http_exchange' END, uid, to_kind,
    CASE to_kind WHEN 'process' THEN said WHEN 'flow' THEN concat(count(*), CASE WHEN count(*) = 1 THEN ' flow ' ELSE ' flows ' END, said)
        ELSE concat(count(*), ' ', said) END, relation, evidence, rule,
    CASE WHEN evidence = 'exact' THEN 1.0 END, CASE WHEN to_kind = 'process' THEN 0 END, CASE WHEN to_kind = 'process' THEN 0 END, max(alternatives)
FROM touched
GROUP BY uid, to_kind, said, relation, evidence, rule
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
    'correlation_id', CASE WHEN timed THEN 1.0 END, low_ns, high_ns, calls_of.amount - calls_of.ids
FROM executions
JOIN (SELECT internal_id, process_uid, count(*) AS amount, count(DISTINCT (session, correlation_id)) AS ids FROM launches GROUP BY ALL)
    AS calls_of ON calls_of.internal_id = executions.internal_id AND calls_of.process_uid = executions.process_uid
UNION ALL
SELECT time_ns, 'engine_step', concat(amount, ' steps of ', owner), 'gpu_kernel', gpu_uuid, 'ran', evidence, 'correlation_id',
    CASE WHEN evidence = 'exact' THEN 1.0 END, 0, 0, 0
FROM gpus
ORDER BY 1
