-- One message of an engine's wire around a stretch of time: the end of a step, as the engine told it. Where steps were only
-- seen on the GPU, the end of each that somebody was in, and of its first piece: that is what it is numbered by. Such a step
-- does not count where its process told of one in the minute after it: of that message are its executions.
-- within: engine_message 10..120 s, step_member 10..60 s
WITH seen AS (
    SELECT DISTINCT process_uid, step_ordinal, time_ns
    FROM step_member
    WHERE level IN ('batches', 'windows', 'spans', 'sockets')
        AND time_ns >= $since_ns - 10000000000 AND time_ns < $until_ns + 60000000000
),
told AS (
    SELECT process_uid, time_ns
    FROM engine_message
    WHERE time_ns >= $since_ns - 10000000000 AND time_ns < $until_ns + 120000000000
        AND process_uid IN (SELECT process_uid FROM seen)
)
SELECT hash(process_uid) AS engine, message AS ordinal, min(coalesce(engine_time_ns, time_ns)) AS time_ns, 0 AS first_end_ns
FROM engine_message
WHERE time_ns >= $since_ns - 10000000000 AND time_ns < $until_ns + 60000000000
GROUP BY ALL
UNION ALL
SELECT hash(seen.process_uid), seen.step_ordinal, seen.time_ns, seen.step_ordinal * 1000
FROM seen
ASOF LEFT JOIN told ON told.process_uid = seen.process_uid AND told.time_ns >= seen.time_ns
WHERE told.time_ns IS NULL OR told.time_ns >= seen.time_ns + 60000000000
ORDER BY engine, time_ns
