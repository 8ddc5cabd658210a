-- One kernel, copy or memset by name: how often and how long it ran in a recording, the longest in all first. Times in ns.
-- parameters: recording
SELECT name, kind, kernel_class, count(*) AS executions, sum(end_ns - start_ns)::BIGINT AS total_ns,
    (sum(end_ns - start_ns) // count(*))::BIGINT AS mean_ns, min(end_ns - start_ns) AS least_ns, max(end_ns - start_ns) AS most_ns,
    sum(end_ns - start_ns) / nullif(sum(sum(end_ns - start_ns)) OVER (), 0) AS share_ratio,
    count(DISTINCT rank) AS ranks, coalesce(sum(moved_bytes), 0)::BIGINT AS moved_bytes
FROM recording_execution
WHERE recording_uid = $recording::VARCHAR
GROUP BY name, kind, kernel_class
ORDER BY total_ns DESC, name
