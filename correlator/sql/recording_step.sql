-- One engine step of a recording, as one rank ran it: its batch, its launches and executions, the GPU's busy and idle time in it. In ns.
-- parameters: recording
WITH piece AS (
    SELECT rank, process_uid, step_ordinal, gpu_uuid, kernel_class, start_ns, end_ns,
        -- What of this execution no earlier one covered: where kernels overlap, the GPU was busy once.
        greatest(0, end_ns - greatest(start_ns, coalesce(max(end_ns) OVER earlier, start_ns))) AS fresh_ns
    FROM recording_execution
    WHERE recording_uid = $recording::VARCHAR AND step_ordinal IS NOT NULL
    WINDOW earlier AS (
        PARTITION BY rank, process_uid, step_ordinal, gpu_uuid ORDER BY start_ns, end_ns
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
), gpu AS (
    SELECT rank, process_uid, step_ordinal, gpu_uuid, count(*) AS executions, sum(end_ns - start_ns)::BIGINT AS kernel_ns,
        sum(fresh_ns)::BIGINT AS busy_ns, min(start_ns) AS gpu_start_ns, max(end_ns) AS gpu_end_ns,
        coalesce(sum(end_ns - start_ns) FILTER (WHERE kernel_class = 'communication'), 0)::BIGINT AS communication_ns
    FROM piece
    GROUP BY rank, process_uid, step_ordinal, gpu_uuid
), worked AS (
    SELECT rank, process_uid, step_ordinal, sum(executions)::BIGINT AS executions, sum(kernel_ns)::BIGINT AS kernel_ns,
        sum(busy_ns)::BIGINT AS busy_ns, sum(gpu_end_ns - gpu_start_ns - busy_ns)::BIGINT AS idle_ns,
        min(gpu_start_ns) AS gpu_start_ns, max(gpu_end_ns) AS gpu_end_ns, sum(communication_ns)::BIGINT AS communication_ns
    FROM gpu
    GROUP BY rank, process_uid, step_ordinal
), first AS (
    SELECT rank, process_uid, correlation_id, min(start_ns) AS gpu_start_ns
    FROM recording_execution
    WHERE recording_uid = $recording::VARCHAR AND correlation_id > 0
    GROUP BY rank, process_uid, correlation_id
), launched AS (
    SELECT launch.rank, launch.process_uid, launch.step_ordinal, count(*) AS launches,
        count(*) FILTER (WHERE launch.api ILIKE '%GraphLaunch%') AS graph_replays,
        median(first.gpu_start_ns - launch.start_ns)::BIGINT AS median_delay_ns
    FROM launch
    -- NULL ranks are equal: a recording of one process tells none.
    LEFT JOIN first ON first.rank IS NOT DISTINCT FROM launch.rank AND first.process_uid = launch.process_uid
        AND first.correlation_id = launch.correlation_id
    WHERE launch.recording_uid = $recording::VARCHAR AND launch.step_ordinal IS NOT NULL
    GROUP BY launch.rank, launch.process_uid, launch.step_ordinal
)
SELECT step.*, step.end_ns - step.start_ns AS duration_ns, coalesce(launched.launches, 0) AS launches,
    coalesce(launched.graph_replays, 0) AS graph_replays, launched.median_delay_ns, coalesce(worked.executions, 0) AS executions,
    coalesce(worked.kernel_ns, 0) AS kernel_ns, coalesce(worked.busy_ns, 0) AS busy_ns, coalesce(worked.idle_ns, 0) AS idle_ns,
    coalesce(worked.communication_ns, 0) AS communication_ns, worked.gpu_start_ns, worked.gpu_end_ns
FROM engine_step AS step
SEMI JOIN recording ON recording.recording_uid = step.recording_uid
LEFT JOIN worked ON worked.rank IS NOT DISTINCT FROM step.rank AND worked.process_uid IS NOT DISTINCT FROM step.process_uid
    AND worked.step_ordinal = step.ordinal
LEFT JOIN launched ON launched.rank IS NOT DISTINCT FROM step.rank AND launched.process_uid IS NOT DISTINCT FROM step.process_uid
    AND launched.step_ordinal = step.ordinal
WHERE step.recording_uid = $recording::VARCHAR
ORDER BY step.start_ns, step.rank
