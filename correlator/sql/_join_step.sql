-- One engine step [$low, $high] around a stretch of time, as one process told it: the scheduler's, or a worker's of the ranks that it runs.
-- Ranks that had other members than the scheduler bear another hash.
-- within: engine_step 5 s
SELECT
    hash(process_uid) AS process,
    ordinal,
    coalesce(max(padded_tokens), 0) AS padded,
    coalesce(bool_or(dummy), false) AS dummy,
    coalesce(max(scheduled_tokens), 0) AS scheduled,
    coalesce(min(CASE WHEN NOT coalesce(dummy, false) THEN member_hash END), 9223372036854775807) AS least_hash,
    coalesce(max(CASE WHEN NOT coalesce(dummy, false) THEN member_hash END), -1) AS most_hash
FROM engine_step
WHERE start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns + 5000000000 AND recording_uid IS NULL
    AND ordinal >= $low AND ordinal <= $high
GROUP BY ALL
