-- One GPU execution's name in a recording: how often it ran and for how long.
-- parameters: recording
SELECT name, any_value(kind) AS kind, any_value(kernel_class) AS kernel_class, count(*) AS executions, sum(end_ns - start_ns)::BIGINT AS total_ns,
    min(end_ns - start_ns) AS least_ns, quantile_cont(end_ns - start_ns, 0.5)::BIGINT AS median_ns, max(end_ns - start_ns) AS longest_ns,
    count(DISTINCT gpu_uuid) AS gpus
FROM gpu_kernel
WHERE recording_uid = $recording::VARCHAR AND (validity IS NULL OR validity = 'ok')
GROUP BY name
ORDER BY total_ns DESC
LIMIT 500
