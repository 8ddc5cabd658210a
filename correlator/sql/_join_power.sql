-- One reading of a GPU's power around a stretch of time.
-- within: gpu_sample 5 s
SELECT hash(gpu_uuid) AS gpu, time_ns, value
FROM gpu_sample
WHERE metric = 'hw.power' AND gpu_instance IS NULL AND part IS NULL
    AND time_ns >= $since_ns - 5000000000 AND time_ns < $until_ns + 5000000000
ORDER BY gpu, time_ns
