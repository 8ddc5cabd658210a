-- One engine's first message after a time.
-- within: engine_message 0 s
SELECT process_uid, min(time_ns) AS time_ns
FROM engine_message
WHERE time_ns >= $since_ns AND time_ns < $until_ns
GROUP BY process_uid
