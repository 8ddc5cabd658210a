-- One GPU execution: identities as hashes, for arrays. Its launch is found there (gpu_time.py): by three numbers, which costs a
-- tenth of what a join of texts does.
-- within: gpu_kernel 5 s
SELECT
    hash(process_uid, recording_uid) AS process,
    hash(gpu_uuid) AS gpu,
    coalesce(session, -1) AS session,
    coalesce(correlation_id, -1) AS correlation,
    step_ordinal AS ordinal,
    (CASE kernel_class WHEN 'attention' THEN 1 WHEN 'sampling' THEN 2 ELSE 0 END)::TINYINT AS kind,
    kind = 'memcpy' AS copies,
    kind = 'graph' AS graph,
    start_ns,
    end_ns,
    hash(session, correlation_id, cuda_stream, graph_node_id, name) AS identity
FROM gpu_kernel
-- Executions of the five seconds before may still run: busy time needs them.
WHERE start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns AND end_ns > $since_ns AND end_ns > start_ns
    AND kind <> 'sync' AND coalesce(validity, 'ok') = 'ok'
