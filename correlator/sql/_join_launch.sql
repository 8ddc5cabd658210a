-- One launch that executions of a stretch of time may be of: at most a minute before them, by its numbers.
-- within: launch 60 s
SELECT
    hash(process_uid, recording_uid) AS process,
    coalesce(session, -1) AS session,
    correlation_id AS correlation,
    step_ordinal AS ordinal,
    start_ns
FROM launch
WHERE start_ns >= $since_ns - 60000000000 AND start_ns < $until_ns + 100000000
    AND correlation_id >= $low AND correlation_id <= $high AND process_uid IS NOT NULL
