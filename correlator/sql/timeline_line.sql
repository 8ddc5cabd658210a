-- One point of a line under a timeline: a measure of a GPU over one bucket of time.
-- The last reading before the window and the first one after it come too, with bucket numbers outside: GPUs are read every few
-- seconds, and a request is often shorter than that.
-- parameters: since_ns, until_ns, bucket_ns, around_ns, nodes
WITH near AS (
    SELECT *, CASE WHEN time_ns < $since_ns THEN $since_ns - time_ns WHEN time_ns >= $until_ns THEN time_ns - $until_ns + 1 ELSE 0 END AS away_ns
    FROM gpu_sample
    WHERE time_ns >= $since_ns - $around_ns AND time_ns < $until_ns + $around_ns
        AND metric NOT IN ('warpline.gpu.throttled', 'warpline.gpu.clock.reasons', 'warpline.gpu.xid.last', 'hw.errors')
        AND (len($nodes::VARCHAR[]) = 0 OR node IN (SELECT unnest($nodes::VARCHAR[])))
), shown AS (
    FROM near
    QUALIFY away_ns = 0
        OR row_number() OVER (PARTITION BY node, gpu_uuid, gpu_instance, metric, part, time_ns < $since_ns, time_ns >= $until_ns ORDER BY away_ns) = 1
)
SELECT node, gpu_uuid, gpu_instance, any_value(index) AS index, metric, part,
    floor((time_ns - $since_ns) / $bucket_ns)::BIGINT AS bucket, avg(value) AS value, min(value) AS least, max(value) AS greatest,
    bool_or(monotonic) AS monotonic, bool_or(simulated) AS simulated
FROM shown
GROUP BY node, gpu_uuid, gpu_instance, metric, part, bucket
ORDER BY node, gpu_uuid, gpu_instance, metric, part, bucket
