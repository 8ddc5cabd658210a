-- One CUDA graph replay of which the executions inside were recorded: the record of the whole graph would count them twice.
-- within: gpu_kernel 5 s
SELECT DISTINCT hash(process_uid, recording_uid) AS process, coalesce(session, -1) AS session, correlation_id AS correlation
FROM gpu_kernel
WHERE graph_node_id IS NOT NULL AND correlation_id IS NOT NULL AND process_uid IS NOT NULL
    AND start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns + 5000000000
