-- One process, GPU or request that the hashes of the other join queries stand for.
SELECT 'process' AS kind, hash(process_uid, recording_uid) AS code, any_value(process_uid) AS name, any_value(node) AS node,
    any_value(recording_uid) IS NOT NULL AS recorded
FROM gpu_kernel
WHERE start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns
GROUP BY ALL
UNION ALL
SELECT 'gpu', hash(gpu_uuid), any_value(gpu_uuid), NULL, false
FROM gpu_kernel
WHERE start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns
GROUP BY ALL
UNION ALL
SELECT 'request', hash(internal_id), any_value(internal_id), NULL, false
FROM step_member
WHERE time_ns >= $since_ns - 5000000000 AND time_ns < $until_ns + 5000000000
GROUP BY ALL
UNION ALL
SELECT 'engine', hash(process_uid), any_value(process_uid), NULL, false
FROM step_member
WHERE time_ns >= $since_ns - 5000000000 AND time_ns < $until_ns + 5000000000
GROUP BY ALL
UNION ALL
-- A worker tells of the steps that its ranks ran; they are its engine's.
SELECT 'teller', hash(process_uid), any_value(process_uid), NULL, false
FROM engine_step
WHERE start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns + 5000000000 AND recording_uid IS NULL
    AND process_uid NOT IN (
        SELECT process_uid FROM step_member
        WHERE time_ns >= $since_ns - 5000000000 AND time_ns < $until_ns + 5000000000 AND process_uid IS NOT NULL
    )
GROUP BY ALL
