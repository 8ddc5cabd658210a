-- One process with messages in [$since_ns, $until_ns], and the time of its last message but one before them.
-- within: engine_message 60 s
WITH new AS (SELECT DISTINCT process_uid FROM engine_message WHERE time_ns >= $since_ns AND time_ns <= $until_ns),
earlier AS (
    SELECT DISTINCT process_uid, message, time_ns, engine_time_ns FROM engine_message
    WHERE time_ns >= $since_ns - 60000000000 AND time_ns < $since_ns
),
last_but_one AS (
    SELECT process_uid, least(min(coalesce(engine_time_ns, time_ns)), $since_ns) AS time_ns
    FROM (FROM earlier QUALIFY row_number() OVER (PARTITION BY process_uid ORDER BY time_ns DESC, message DESC) <= 2)
    GROUP BY process_uid
    HAVING count(*) = 2
)
SELECT new.process_uid, coalesce(last_but_one.time_ns, $since_ns - 60000000000) AS time_ns
FROM new
LEFT JOIN last_but_one ON last_but_one.process_uid = new.process_uid
