-- One GPU's or MIG instance's readings of one measure in one interval; of what only grows, by how much it grew from reading to
-- reading and over which time (`passed_ns`; NULL of all else). A counter that begins anew grew by nothing.
-- parameters: since_ns, until_ns, metric, part, interval_ns
WITH reading AS (
    SELECT *, greatest(value - lag(value) OVER same, 0) AS grown, time_ns - lag(time_ns) OVER same AS since_last_ns
    FROM gpu_sample
    WHERE time_ns >= $since_ns AND time_ns < $until_ns AND metric = $metric::VARCHAR AND coalesce(part, '-') = $part::VARCHAR
    WINDOW same AS (PARTITION BY node, gpu_uuid, gpu_instance ORDER BY time_ns)
)
SELECT node, gpu_uuid, gpu_instance, any_value(index) AS index, any_value(pod) AS pod,
    time_ns // $interval_ns::BIGINT * $interval_ns::BIGINT AS start_ns,
    CASE WHEN bool_or(monotonic) THEN sum(grown) ELSE avg(value) END AS value,
    CASE WHEN bool_or(monotonic) THEN sum(since_last_ns)::BIGINT END AS passed_ns,
    min(value) AS least, max(value) AS greatest, bool_or(simulated) AS simulated
FROM reading
GROUP BY node, gpu_uuid, gpu_instance, time_ns // $interval_ns::BIGINT
HAVING value IS NOT NULL
ORDER BY node, index, gpu_uuid, gpu_instance, start_ns
