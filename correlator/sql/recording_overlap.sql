-- One GPU of one rank of a recording: how much of its communication ran under compute. Unions of executions, in ns.
-- parameters: recording
WITH chosen AS (
    SELECT rank, gpu_uuid, start_ns, end_ns, coalesce(kernel_class, '') = 'communication' AS communicates
    FROM recording_execution
    WHERE recording_uid = $recording::VARCHAR AND kind IN ('kernel', 'graph')
), piece AS (
    SELECT rank, gpu_uuid, communicates,
        greatest(0, end_ns - greatest(start_ns, coalesce(max(end_ns) OVER alike, start_ns))) AS fresh_alike_ns,
        greatest(0, end_ns - greatest(start_ns, coalesce(max(end_ns) OVER earlier, start_ns))) AS fresh_ns
    FROM chosen
    WINDOW
        alike AS (
            PARTITION BY rank, gpu_uuid, communicates ORDER BY start_ns, end_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ),
        earlier AS (PARTITION BY rank, gpu_uuid ORDER BY start_ns, end_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), total AS (
    SELECT rank, gpu_uuid,
        coalesce(sum(fresh_alike_ns) FILTER (WHERE communicates), 0)::BIGINT AS communication_ns,
        coalesce(sum(fresh_alike_ns) FILTER (WHERE NOT communicates), 0)::BIGINT AS compute_ns,
        sum(fresh_ns)::BIGINT AS either_ns
    FROM piece
    GROUP BY rank, gpu_uuid
)
SELECT rank, gpu_uuid, compute_ns, communication_ns, compute_ns + communication_ns - either_ns AS overlapped_ns,
    either_ns - compute_ns AS exposed_ns,
    (compute_ns + communication_ns - either_ns) / nullif(communication_ns, 0) AS overlap_ratio
FROM total
ORDER BY rank, gpu_uuid
