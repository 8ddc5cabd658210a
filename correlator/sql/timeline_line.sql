-- One point of a line under a timeline: a measure of a GPU over one bucket of time.
-- parameters: since_ns, until_ns, bucket_ns, nodes
SELECT node, gpu_uuid, gpu_instance, any_value(index) AS index, metric, part,
    (time_ns - $since_ns) // $bucket_ns AS bucket, avg(value) AS value, min(value) AS least, max(value) AS greatest,
    bool_or(monotonic) AS monotonic, bool_or(simulated) AS simulated
FROM gpu_sample
WHERE time_ns >= $since_ns AND time_ns < $until_ns
    AND (len($nodes::VARCHAR[]) = 0 OR node IN (SELECT unnest($nodes::VARCHAR[])))
GROUP BY node, gpu_uuid, gpu_instance, metric, part, bucket
ORDER BY node, gpu_uuid, gpu_instance, metric, part, bucket
