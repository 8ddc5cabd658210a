-- One GPU execution with the step that launched it: identities as hashes, for arrays. Never more rows than executions: a
-- launch that was stored twice counts once.
WITH launches AS (
    SELECT process_uid, session, correlation_id, recording_uid, min(step_ordinal) AS step_ordinal
    FROM launch
    WHERE start_ns >= $since_ns - 60000000000 AND start_ns < $until_ns + 5000000000 AND correlation_id IS NOT NULL
    GROUP BY ALL
),
nodes AS (
    -- Kernels inside CUDA graphs, where they were recorded: then the record of their whole graph would count them twice.
    SELECT DISTINCT process_uid, session, correlation_id, recording_uid
    FROM gpu_kernel
    WHERE graph_node_id IS NOT NULL AND start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns + 5000000000
)
SELECT
    hash(k.process_uid, k.recording_uid) AS process,
    hash(k.gpu_uuid) AS gpu,
    coalesce(k.step_ordinal, l.step_ordinal) AS ordinal,
    l.process_uid IS NOT NULL AS launched,
    (CASE k.kernel_class WHEN 'attention' THEN 1 WHEN 'sampling' THEN 2 ELSE 0 END)::TINYINT AS kind,
    k.kind = 'memcpy' AS copies,
    k.start_ns,
    k.end_ns,
    hash(k.session, k.correlation_id, k.cuda_stream, k.graph_node_id, k.name) AS identity
FROM gpu_kernel AS k
LEFT JOIN launches AS l
    ON l.process_uid = k.process_uid AND l.session IS NOT DISTINCT FROM k.session
    AND l.correlation_id = k.correlation_id AND l.recording_uid IS NOT DISTINCT FROM k.recording_uid
LEFT JOIN nodes AS n
    ON k.kind = 'graph' AND n.process_uid = k.process_uid AND n.session IS NOT DISTINCT FROM k.session
    AND n.correlation_id = k.correlation_id AND n.recording_uid IS NOT DISTINCT FROM k.recording_uid
-- Executions of the five seconds before may still run: busy time needs them.
WHERE k.start_ns >= $since_ns - 5000000000 AND k.start_ns < $until_ns
    AND k.end_ns > $since_ns AND k.end_ns > k.start_ns
    AND k.kind <> 'sync' AND coalesce(k.validity, 'ok') = 'ok' AND n.process_uid IS NULL
