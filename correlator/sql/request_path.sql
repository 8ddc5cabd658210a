-- How far one request is followed from its client's socket to its GPU executions: how many rows were found of each part of its
-- way, and the first part that is missing; NULL where the way is whole.
-- parameters: since_ns, until_ns
-- within: request 0..3600 s, step_member 0..600 s, launch 0..600 s, gpu_kernel 0..660 s
WITH asked AS (
    SELECT request_uid, start_ns, side, client_start_ns, proxies, request_id, trace_id, attempt_uid
    FROM request
    WHERE start_ns >= $since_ns AND start_ns < $until_ns
),
hops AS (
    -- Envoy keeps its sampling decision in one digit of x-request-id; a client's own id may be no UUID.
    SELECT asked.request_uid, count(DISTINCT (hop.node, hop.proxy, hop.start_ns)) AS amount
    FROM asked
    JOIN hop ON regexp_replace(hop.request_id, '^(.{14})[0-9a-f](.{21})$', '\1.\2')
            = regexp_replace(asked.request_id, '^(.{14})[0-9a-f](.{21})$', '\1.\2')
        AND abs(hop.start_ns - asked.start_ns) < 600_000_000_000
    WHERE asked.proxies > 0
    GROUP BY asked.request_uid
),
engine AS (
    SELECT DISTINCT asked.request_uid, alias.scope AS process_uid, alias.value AS internal_id
    FROM asked
    JOIN alias ON alias.kind = 'internal_id' AND alias.attempt_uid = asked.attempt_uid
),
member AS (
    SELECT DISTINCT engine.request_uid, engine.process_uid, step_member.step_ordinal
    FROM engine
    JOIN step_member ON step_member.internal_id = engine.internal_id AND step_member.process_uid = engine.process_uid
    WHERE step_member.time_ns >= $since_ns AND step_member.time_ns < $until_ns + 600_000_000_000
),
-- A step's launches are the engine's own, or those of its workers.
family AS (
    SELECT DISTINCT process_uid, process_uid AS engine FROM member
    UNION
    SELECT process_uid, parent_uid FROM process WHERE parent_uid IN (SELECT process_uid FROM member)
),
called AS (
    SELECT family.engine, launch.process_uid, launch.session, launch.correlation_id, any_value(launch.step_ordinal) AS step_ordinal
    FROM launch
    JOIN family ON family.process_uid = launch.process_uid
    WHERE launch.start_ns >= $since_ns AND launch.start_ns < $until_ns + 600_000_000_000 AND launch.recording_uid IS NULL
        AND launch.step_ordinal IS NOT NULL AND launch.correlation_id IS NOT NULL
    GROUP BY ALL
),
executed AS (
    SELECT process_uid, session, correlation_id, count(*) AS amount
    FROM gpu_kernel
    WHERE start_ns >= $since_ns AND start_ns < $until_ns + 660_000_000_000 AND recording_uid IS NULL
    GROUP BY ALL
),
ran AS (
    SELECT called.engine, called.step_ordinal, count(*) AS launches, coalesce(sum(executed.amount), 0)::BIGINT AS executions
    FROM called
    LEFT JOIN executed ON executed.process_uid = called.process_uid AND executed.correlation_id = called.correlation_id
        AND executed.session IS NOT DISTINCT FROM called.session
    GROUP BY ALL
),
steps AS (
    SELECT member.request_uid, count(*) AS amount, count(ran.launches) AS launched,
        count(*) FILTER (ran.executions > 0) AS executed, coalesce(sum(ran.launches), 0)::BIGINT AS launches,
        coalesce(sum(ran.executions), 0)::BIGINT AS executions
    FROM member
    LEFT JOIN ran ON ran.engine = member.process_uid AND ran.step_ordinal = member.step_ordinal
    GROUP BY member.request_uid
)
SELECT
    asked.request_uid,
    asked.start_ns,
    asked.trace_id,
    asked.side = 'server' AS server,
    asked.client_start_ns IS NOT NULL AS client,
    asked.proxies,
    coalesce(hops.amount, 0) AS hops,
    (SELECT count(*) FROM engine WHERE engine.request_uid = asked.request_uid) AS engine_requests,
    coalesce(steps.amount, 0) AS steps,
    coalesce(steps.launched, 0) AS launched_steps,
    coalesce(steps.executed, 0) AS executed_steps,
    coalesce(steps.launches, 0) AS launches,
    coalesce(steps.executions, 0) AS executions,
    CASE
        WHEN asked.client_start_ns IS NULL THEN 'the client''s socket'
        WHEN asked.side = 'client' THEN 'the server''s socket'
        WHEN coalesce(hops.amount, 0) < asked.proxies THEN 'a proxy''s access log'
        WHEN asked.request_uid NOT IN (SELECT request_uid FROM engine) THEN 'the engine''s request'
        WHEN steps.amount IS NULL THEN 'its engine steps'
        WHEN steps.launched < steps.amount THEN 'CUDA launches of a step'
        WHEN steps.executed < steps.amount THEN 'GPU executions of a step'
    END AS missing
FROM asked
LEFT JOIN hops ON hops.request_uid = asked.request_uid
LEFT JOIN steps ON steps.request_uid = asked.request_uid
ORDER BY asked.start_ns
