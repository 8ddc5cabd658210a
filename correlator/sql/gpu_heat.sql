-- One GPU's or MIG instance's readings of one measure in one interval; of what only grows, by how much it grew in it.
-- parameters: since_ns, until_ns, metric, part, interval_ns
SELECT node, gpu_uuid, gpu_instance, any_value(index) AS index, any_value(pod) AS pod,
    time_ns // $interval_ns::BIGINT * $interval_ns::BIGINT AS start_ns,
    CASE WHEN bool_or(monotonic) THEN max(value) - min(value) ELSE avg(value) END AS value,
    min(value) AS least, max(value) AS greatest, bool_or(simulated) AS simulated
FROM gpu_sample
WHERE time_ns >= $since_ns AND time_ns < $until_ns AND metric = $metric::VARCHAR AND coalesce(part, '-') = $part::VARCHAR
GROUP BY node, gpu_uuid, gpu_instance, time_ns // $interval_ns::BIGINT
ORDER BY node, index, gpu_uuid, gpu_instance, start_ns
