-- One process that ran something on a GPU in a stretch of time, of which neither messages nor the plugin tell any step.
SELECT DISTINCT process_uid FROM gpu_kernel
WHERE start_ns >= $since_ns AND start_ns < $until_ns AND recording_uid IS NULL AND step_ordinal IS NULL
    AND process_uid NOT IN (
        SELECT process_uid FROM engine_message
        WHERE time_ns >= $since_ns - 30000000000 AND time_ns < $until_ns + 30000000000
        UNION
        SELECT process_uid FROM step_member
        WHERE level = 'plugin' AND time_ns >= $since_ns - 60000000000 AND time_ns < $until_ns + 60000000000
    )
LIMIT 1
