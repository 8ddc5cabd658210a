-- One message of an engine's wire around a stretch of time: the end of a step, as the engine told it.
SELECT hash(process_uid) AS engine, message AS ordinal, min(coalesce(engine_time_ns, time_ns)) AS time_ns
FROM engine_message
WHERE time_ns >= $since_ns - 10000000000 AND time_ns < $until_ns + 60000000000
GROUP BY ALL
ORDER BY engine, time_ns
