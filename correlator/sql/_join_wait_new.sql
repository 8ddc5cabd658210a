-- One stretch of waiting that an event in [$since_ns, $until_ns] ends, begins or cuts: as its request's events before and after
-- it say, at most five minutes away.
-- within: engine_event 300 s
WITH new AS (
    SELECT DISTINCT process_uid, internal_id FROM engine_event
    WHERE time_ns >= $since_ns AND time_ns <= $until_ns AND kind IN ('queued', 'scheduled', 'resumed', 'preempted')
),
marked AS (
    SELECT time_ns, kind, lag(kind) OVER each AS kind_before, lag(time_ns) OVER each AS before_ns, lead(time_ns) OVER each AS after_ns
    FROM (
        SELECT DISTINCT process_uid, internal_id, kind, time_ns FROM engine_event
        SEMI JOIN new ON new.internal_id = engine_event.internal_id AND new.process_uid IS NOT DISTINCT FROM engine_event.process_uid
        WHERE kind IN ('queued', 'scheduled', 'resumed', 'preempted')
            AND time_ns >= $since_ns - 300000000000 AND time_ns <= $until_ns + 300000000000
    )
    WINDOW each AS (PARTITION BY process_uid, internal_id ORDER BY time_ns, kind)
)
SELECT DISTINCT
    CASE WHEN kind_before IN ('queued', 'preempted') THEN before_ns ELSE time_ns END // $stretch_ns AS first,
    coalesce(CASE WHEN kind IN ('queued', 'preempted') OR kind_before IN ('queued', 'preempted') THEN after_ns END, time_ns) // $stretch_ns AS last
FROM marked
WHERE time_ns >= $since_ns AND time_ns <= $until_ns
ORDER BY ALL
