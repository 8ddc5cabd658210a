-- One execution inside a replay of a CUDA graph that was recorded as a whole: modelled from the graph's template, never measured.
-- Its evidence is estimated; the replay's own start and end are measured, and are those of `gpu_kernel`.
-- parameters: since_ns, until_ns
SELECT
    replay.start_ns + (template.start_ratio * (replay.end_ns - replay.start_ns))::BIGINT AS start_ns,
    replay.start_ns + ((template.start_ratio + template.duration_ratio) * (replay.end_ns - replay.start_ns))::BIGINT AS end_ns,
    replay.node,
    replay.process_uid,
    replay.gpu_uuid,
    replay.cuda_stream,
    replay.session,
    replay.correlation_id,
    replay.step_ordinal,
    replay.graph_id,
    template.graph_node_id,
    template.name,
    template.kernel_class,
    template.replays AS template_replays,
    'estimated' AS evidence,
    'graph_template' AS rule,
    replay.simulated
FROM gpu_kernel AS replay
JOIN graph_template AS template ON template.process_uid = replay.process_uid AND template.graph_id = replay.graph_id
    AND template.recording_uid IS NOT DISTINCT FROM replay.recording_uid
WHERE replay.kind = 'graph' AND replay.start_ns >= $since_ns AND replay.start_ns < $until_ns
    AND replay.end_ns > replay.start_ns AND coalesce(replay.validity, 'ok') = 'ok'
ORDER BY 1
