-- One node of a CUDA graph as the replays that were recorded in full measured it: what runs there, and where in the replay and
-- for how long, as shares of the replay's time (medians over `replays` of them).
WITH node AS (
    SELECT process_uid, recording_uid, session, correlation_id, graph_id, graph_node_id, name, kind, kernel_class, gpu_uuid, start_ns, end_ns,
        min(start_ns) OVER replay AS replay_start_ns, max(end_ns) OVER replay AS replay_end_ns, bool_or(simulated) OVER replay AS simulated
    FROM gpu_kernel
    WHERE graph_node_id IS NOT NULL AND end_ns > start_ns AND coalesce(validity, 'ok') = 'ok'
    WINDOW replay AS (PARTITION BY process_uid, recording_uid, session, correlation_id)
)
SELECT
    process_uid,
    recording_uid,
    graph_id,
    graph_node_id,
    any_value(name) AS name,
    any_value(kind) AS kind,
    any_value(kernel_class) AS kernel_class,
    count(*) AS replays,
    median((start_ns - replay_start_ns) / (replay_end_ns - replay_start_ns)) AS start_ratio,
    median((end_ns - start_ns) / (replay_end_ns - replay_start_ns)) AS duration_ratio,
    bool_or(simulated) AS simulated
FROM node
GROUP BY process_uid, recording_uid, graph_id, graph_node_id
