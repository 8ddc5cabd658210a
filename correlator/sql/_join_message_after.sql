-- One engine's first message after a time.
SELECT process_uid, min(time_ns) AS time_ns
FROM engine_message
WHERE time_ns >= $high_ns AND time_ns < $high_ns + $ahead_ns
GROUP BY process_uid
