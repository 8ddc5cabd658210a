-- Requests wait while GPU {gpu_uuid} on {node} is only {value:.0%} active.
-- severity: warning
-- for: 15s
-- threshold: most_sm_ratio = 0.3; a GPU that works on a batch is above it
-- threshold: least_waiting = 1; one waiting request is one too many
-- missing: no_data
-- runbook: the engine, not the GPU, is the brake: look at its host threads (off-CPU), KV cache and scheduler settings
WITH sample AS (
    SELECT node, gpu_uuid, AVG(value) AS sm_ratio FROM gpu_sample
    WHERE time_ns > $now_ns - 15000000000 AND time_ns <= $now_ns AND metric = 'warpline.gpu.pipe.active' AND part = 'sm'
    GROUP BY ALL
), waiting AS (
    SELECT AVG(value) AS requests FROM engine_sample
    WHERE time_ns > $now_ns - 15000000000 AND time_ns <= $now_ns AND metric = 'requests.waiting' AND statistic = 'value'
)
SELECT node, gpu_uuid, sm_ratio AS value,
    CASE WHEN requests IS NULL THEN NULL ELSE requests >= $least_waiting AND sm_ratio < $most_sm_ratio END AS firing
FROM sample, waiting
