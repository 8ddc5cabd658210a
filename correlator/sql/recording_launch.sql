-- One launch of a recording with what it made the GPU do: its own time, the delay until the GPU began, the gap before it. In ns.
-- parameters: recording
WITH made AS (
    SELECT rank, process_uid, session, correlation_id, count(*) AS executions, min(start_ns) AS gpu_start_ns, max(end_ns) AS gpu_end_ns,
        sum(end_ns - start_ns)::BIGINT AS kernel_ns, any_value(name) AS a_kernel
    FROM recording_execution
    WHERE recording_uid = $recording::VARCHAR AND correlation_id > 0
    GROUP BY rank, process_uid, session, correlation_id
), called AS (
    SELECT launch.*, launch.start_ns - lag(launch.end_ns) OVER (
        PARTITION BY launch.rank, launch.process_uid, launch.thread_id ORDER BY launch.start_ns
    ) AS gap_ns
    FROM launch
    SEMI JOIN recording ON recording.recording_uid = launch.recording_uid
    WHERE launch.recording_uid = $recording::VARCHAR
)
SELECT called.start_ns, called.end_ns, called.rank, called.process_uid, called.thread_id, called.step_ordinal, called.api,
    called.correlation_id, called.end_ns - called.start_ns AS launch_ns, called.gap_ns,
    coalesce(made.executions, 0) AS executions, made.gpu_start_ns, made.gpu_end_ns, made.kernel_ns,
    made.gpu_start_ns - called.start_ns AS delay_ns, called.api ILIKE '%GraphLaunch%' AS graph_replay,
    coalesce(called.kernel_name, made.a_kernel) AS kernel_name
FROM called
-- NULL ranks are equal: a recording of one process tells none.
LEFT JOIN made ON made.rank IS NOT DISTINCT FROM called.rank AND made.process_uid = called.process_uid
    AND made.session = called.session AND made.correlation_id = called.correlation_id
ORDER BY called.start_ns
