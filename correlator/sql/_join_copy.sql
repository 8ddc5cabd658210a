-- One copy of memory on a GPU around a stretch of time: a step ends with one.
-- within: gpu_kernel 60 s
SELECT hash(process_uid, recording_uid) AS process, end_ns
FROM gpu_kernel
WHERE start_ns >= $since_ns - 10000000000 AND start_ns < $until_ns + 60000000000 AND kind = 'memcpy'
    AND end_ns > start_ns AND coalesce(validity, 'ok') = 'ok'
