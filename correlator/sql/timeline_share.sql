-- What one request was given of the GPUs, by phase and class of execution.
-- parameters: subjects
SELECT phase, kernel_class, sum(share_ns)::BIGINT AS share_ns, sum(busy_ns)::BIGINT AS busy_ns, sum(share_j) AS share_j,
    count(DISTINCT step_ordinal) AS steps, count(DISTINCT gpu_uuid) AS gpus, arg_max(evidence, share_ns) AS evidence
FROM share
WHERE owner IN (SELECT unnest($subjects::VARCHAR[]))
GROUP BY phase, kernel_class
ORDER BY share_ns DESC
