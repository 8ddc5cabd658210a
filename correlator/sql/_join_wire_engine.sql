-- One engine whose wire was seen in a stretch of time and whose plugin was not.
SELECT process_uid, engine_index
FROM engine_message
WHERE time_ns >= $since_ns AND time_ns < $until_ns
    AND process_uid NOT IN (
        SELECT DISTINCT process_uid FROM step_member
        WHERE level = 'plugin' AND time_ns >= $since_ns - 60000000000 AND time_ns < $until_ns + 60000000000
    )
GROUP BY ALL
ORDER BY ALL
