-- One measure that GPUs have readings of in a window: of how many GPUs, and when the first and the last of them was.
-- parameters: since_ns, until_ns
SELECT metric, part, count(*) AS readings, count(DISTINCT concat_ws('/', node, gpu_uuid, gpu_instance)) AS gpus,
    min(time_ns) AS first_ns, max(time_ns) AS last_ns, bool_or(monotonic) AS monotonic
FROM gpu_sample
WHERE time_ns >= $since_ns AND time_ns < $until_ns
GROUP BY metric, part
ORDER BY gpus DESC, metric, part
