-- One GPU or MIG instance as it was last described, by the id that executions and samples carry.
SELECT coalesce(mig_uuid, gpu_uuid) AS gpu_uuid, arg_max(index, time_ns) AS index, arg_max(model, time_ns) AS model,
    arg_max(profile, time_ns) AS profile, arg_max(sharing, time_ns) AS sharing, arg_max(pod, time_ns) AS pod,
    bool_or(simulated) AS simulated
FROM gpu
GROUP BY ALL
