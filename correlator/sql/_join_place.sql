-- One process with one of its GPUs, as the hashes of the other join queries name them.
-- within: gpu_kernel 5 s
SELECT hash(process_uid, recording_uid) AS process, process_uid, min(node) AS node, hash(gpu_uuid) AS gpu, gpu_uuid
FROM gpu_kernel
WHERE start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns
GROUP BY process_uid, recording_uid, gpu_uuid
