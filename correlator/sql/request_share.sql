-- What one request was given of the GPUs in one phase and class: share (sums to the measured time over all requests and
-- buckets), busy time, energy, and cost (its busy time by the GPU's price). `request` is any id that it is known by.
-- parameters: request, since_ns, until_ns
-- within: alias 3600 s, share 0 s
SELECT
    owner AS internal_id,
    share.gpu_uuid,
    phase,
    kernel_class,
    sum(share_ns)::BIGINT AS share_ns,
    sum(busy_ns)::BIGINT AS busy_ns,
    sum(share_j) AS share_j,
    sum(busy_ns) / 3.6e12 * coalesce(any_value(gpu_price.per_hour), (SELECT any_value(per_hour) FROM gpu_price WHERE gpu_uuid IS NULL)) AS cost,
    count(DISTINCT step_ordinal) AS steps,
    max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence
FROM share
LEFT JOIN gpu_price ON gpu_price.gpu_uuid = share.gpu_uuid
WHERE time_ns >= $since_ns AND time_ns < $until_ns AND owner IN (FROM internal_ids($request::VARCHAR))
GROUP BY ALL
ORDER BY share_ns DESC
