-- One message of an engine's wire around a stretch of time: the end of a step, as the engine told it. Where steps were only
-- seen on the GPU, the end of each that somebody was in, and of its first piece: that is what it is numbered by.
SELECT hash(process_uid) AS engine, message AS ordinal, min(coalesce(engine_time_ns, time_ns)) AS time_ns, 0 AS first_end_ns
FROM engine_message
WHERE time_ns >= $since_ns - 10000000000 AND time_ns < $until_ns + 60000000000
GROUP BY ALL
UNION ALL
SELECT DISTINCT hash(process_uid), step_ordinal, time_ns, step_ordinal * 1000
FROM step_member
WHERE level IN ('batches', 'windows', 'spans', 'sockets') AND time_ns >= $since_ns - 10000000000 AND time_ns < $until_ns + 60000000000
    AND process_uid NOT IN (SELECT process_uid FROM engine_message)
ORDER BY engine, time_ns
