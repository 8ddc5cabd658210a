-- GPU {gpu_uuid} on {node} has {value:.1%} of its memory left.
-- severity: warning
-- for: 1m
-- threshold: least_free_ratio = 0.02; engines reserve 90 % at start, so that only what is left after it warns of an out-of-memory
-- missing: no_data
-- runbook: look for a second process on the GPU; lower gpu_memory_utilization
WITH latest AS (
    SELECT node, gpu_uuid, gpu_instance, ARG_MAX(value, time_ns) FILTER (metric = 'hw.gpu.memory.usage') AS used_bytes,
        ARG_MAX(value, time_ns) FILTER (metric = 'warpline.gpu.memory.free') AS free_bytes,
        ARG_MAX(value, time_ns) FILTER (metric = 'hw.gpu.memory.limit') AS limit_bytes
    FROM gpu_sample
    WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns
        AND metric IN ('hw.gpu.memory.usage', 'warpline.gpu.memory.free', 'hw.gpu.memory.limit')
    GROUP BY ALL
), share AS (
    SELECT node, gpu_uuid, gpu_instance, COALESCE(free_bytes, limit_bytes - used_bytes)
        / NULLIF(COALESCE(limit_bytes, used_bytes + free_bytes), 0) AS free_ratio FROM latest
)
SELECT node, gpu_uuid, gpu_instance, free_ratio AS value, free_ratio < $least_free_ratio AS firing
FROM share WHERE free_ratio IS NOT NULL
