-- One GPU with readings of its power in [$since_ns, $until_ns], and whether the first of them has none in the five seconds before.
-- within: gpu_sample 5 s
WITH reading AS (
    SELECT gpu_uuid, time_ns FROM gpu_sample
    WHERE metric = 'hw.power' AND gpu_instance IS NULL AND part IS NULL
        AND time_ns >= $since_ns - 5000000000 AND time_ns <= $until_ns
),
new AS (SELECT gpu_uuid, min(time_ns) AS time_ns FROM reading WHERE time_ns >= $since_ns GROUP BY gpu_uuid)
SELECT new.gpu_uuid, count(reading.time_ns) = 0 AS first
FROM new
LEFT JOIN reading ON reading.gpu_uuid = new.gpu_uuid AND reading.time_ns < new.time_ns
    AND reading.time_ns >= new.time_ns - 5000000000
GROUP BY new.gpu_uuid
