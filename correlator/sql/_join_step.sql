-- One engine step around a stretch of time, all its ranks together; ranks that disagree on who was in it are told apart.
SELECT
    hash(process_uid) AS engine,
    ordinal,
    coalesce(max(padded_tokens), 0) AS padded,
    coalesce(bool_or(dummy), false) AS dummy,
    coalesce(max(scheduled_tokens), 0) AS scheduled,
    count(DISTINCT member_hash) > 1 AS disagree
FROM engine_step
WHERE start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns + 5000000000 AND recording_uid IS NULL
GROUP BY ALL
