-- GPU {gpu_uuid} on {node} is saturated: SM active {value:.0%} of the time, and requests wait.
-- severity: warning
-- for: 30s
-- threshold: least_sm_ratio = 0.9; above it no SM is idle for long; GPU_UTIL alone only says that some kernel was resident
-- threshold: least_pressure_ratio = 0.5; tensor pipes or memory half busy, or half of all warps resident: else the SMs only wait
-- threshold: least_waiting = 1; a full GPU that nobody waits for is a GPU well used
-- missing: no_data
-- runbook: look at the GPUs page for who uses it; scale out, or lower max_num_seqs if TTFT matters more than throughput
WITH sample AS (
    SELECT node, gpu_uuid, gpu_instance,
        AVG(value) FILTER (metric = 'warpline.gpu.pipe.active' AND part = 'sm') AS sm_ratio,
        GREATEST(
            AVG(value) FILTER (metric = 'warpline.gpu.pipe.active' AND part = 'tensor'),
            AVG(value) FILTER (metric = 'warpline.gpu.pipe.active' AND part = 'memory'),
            AVG(value) FILTER (metric = 'warpline.gpu.sm.occupancy')
        ) AS pressure_ratio
    FROM gpu_sample
    WHERE time_ns > $now_ns - 30000000000 AND time_ns <= $now_ns
        AND metric IN ('warpline.gpu.pipe.active', 'warpline.gpu.sm.occupancy')
    GROUP BY ALL
), waiting AS (
    SELECT MAX(value) AS requests FROM engine_sample
    WHERE time_ns > $now_ns - 30000000000 AND time_ns <= $now_ns AND metric = 'requests.waiting' AND statistic = 'value'
)
SELECT node, gpu_uuid, gpu_instance, sm_ratio AS value,
    sm_ratio >= $least_sm_ratio AND COALESCE(pressure_ratio, 1) >= $least_pressure_ratio
        AND COALESCE(requests, $least_waiting) >= $least_waiting AS firing
FROM sample, waiting
WHERE sm_ratio IS NOT NULL
