-- One measure that GPUs have readings of in a window, and of how many GPUs.
-- parameters: since_ns, until_ns
SELECT metric, part, count(*) AS readings, count(DISTINCT concat_ws('/', node, gpu_uuid, gpu_instance)) AS gpus, bool_or(monotonic) AS monotonic
FROM gpu_sample
WHERE time_ns >= $since_ns AND time_ns < $until_ns
GROUP BY metric, part
ORDER BY gpus DESC, metric, part
