-- One GPU of one rank of a recording: how long it worked. Busy is the union of its executions, kernel time their sum, in ns.
-- parameters: recording
WITH piece AS (
    SELECT rank, gpu_uuid, kind, start_ns, end_ns,
        -- What of this execution no earlier one covered: where kernels overlap, the GPU was busy once.
        greatest(0, end_ns - greatest(start_ns, coalesce(max(end_ns) OVER earlier, start_ns))) AS fresh_ns
    FROM recording_execution
    WHERE recording_uid = $recording::VARCHAR
    WINDOW earlier AS (PARTITION BY rank, gpu_uuid ORDER BY start_ns, end_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT rank, gpu_uuid, min(start_ns) AS start_ns, max(end_ns) AS end_ns, count(*) AS executions,
    sum(end_ns - start_ns)::BIGINT AS kernel_ns, sum(fresh_ns)::BIGINT AS busy_ns,
    (max(end_ns) - min(start_ns) - sum(fresh_ns))::BIGINT AS idle_ns,
    sum(fresh_ns) / nullif(max(end_ns) - min(start_ns), 0) AS busy_ratio,
    coalesce(sum(end_ns - start_ns) FILTER (WHERE kind IN ('memcpy', 'memset')), 0)::BIGINT AS memory_ns
FROM piece
GROUP BY rank, gpu_uuid
ORDER BY rank, gpu_uuid
