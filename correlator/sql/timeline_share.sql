-- What one request was given of the GPUs, by phase and class of execution.
-- parameters: subjects, since_ns, until_ns
-- within: share 60 s
SELECT phase, kernel_class, sum(share_ns)::BIGINT AS share_ns, sum(busy_ns)::BIGINT AS busy_ns, sum(share_j) AS share_j,
    sum(busy_ns / 3.6e12 * coalesce(gpu_price.per_hour, (SELECT any_value(per_hour) FROM gpu_price WHERE gpu_uuid IS NULL))) AS cost,
    count(DISTINCT step_ordinal) AS steps, count(DISTINCT share.gpu_uuid) AS gpus, arg_max(evidence, share_ns) AS evidence
FROM share
LEFT JOIN gpu_price ON gpu_price.gpu_uuid = share.gpu_uuid
WHERE owner IN (SELECT unnest($subjects::VARCHAR[])) AND time_ns >= $since_ns - 60000000000 AND time_ns < $until_ns + 60000000000
GROUP BY phase, kernel_class
ORDER BY share_ns DESC
