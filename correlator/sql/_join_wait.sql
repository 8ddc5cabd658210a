-- One wait of one request in its engine, of five minutes at most: from queued to scheduled, or from preempted to resumed.
-- within: engine_event 300 s
WITH marked AS (
    SELECT process_uid, internal_id, kind, time_ns,
        lead(kind) OVER each AS next_kind, lead(time_ns) OVER each AS next_ns
    FROM (
        SELECT DISTINCT process_uid, internal_id, kind, time_ns FROM engine_event
        WHERE kind IN ('queued', 'scheduled', 'resumed', 'preempted')
            AND time_ns >= $since_ns - 300000000000 AND time_ns < $until_ns + 300000000000
    )
    WINDOW each AS (PARTITION BY process_uid, internal_id ORDER BY time_ns, kind)
)
SELECT internal_id AS owner, hash(process_uid) AS engine, time_ns AS start_ns, next_ns AS end_ns,
    kind = 'preempted' AS again
FROM marked
WHERE kind IN ('queued', 'preempted') AND next_kind IN ('scheduled', 'resumed')
    AND next_ns - time_ns BETWEEN 1000000 AND 300000000000 AND next_ns > $since_ns AND time_ns < $until_ns
ORDER BY ALL
