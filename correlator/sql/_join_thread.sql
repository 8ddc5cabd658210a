-- One thread that made launches, by its own number for itself: a scheduler's trace tells its steps by that number.
-- within: launch 0 s
SELECT DISTINCT node, process_uid, thread_id
FROM launch
WHERE start_ns >= $since_ns AND start_ns < $until_ns AND thread_id IS NOT NULL AND recording_uid IS NULL
ORDER BY ALL
