-- Time to first token of {model} is {value:.0f} ms (p95) while its GPUs are nearly idle.
-- severity: warning
-- for: 30s
-- threshold: objective_ms = 2000; as in ttft_objective
-- threshold: most_sm_ratio = 0.3; below it compute is not what is short
-- missing: no_data
-- runbook: open the slowest request: network, queue or host code holds it, not the GPU
WITH slow AS (
    SELECT COALESCE(model, 'unknown') AS model, QUANTILE_CONT(ttft_ns, 0.95) / 1e6 AS ttft_ms FROM request
    WHERE start_ns > $now_ns - 60000000000 AND start_ns <= $now_ns AND ttft_ns IS NOT NULL AND method = 'POST' GROUP BY ALL
), gpu AS (
    SELECT AVG(value) AS sm_ratio FROM gpu_sample
    WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns AND metric = 'warpline.gpu.pipe.active' AND part = 'sm'
)
SELECT model, ttft_ms AS value,
    CASE WHEN sm_ratio IS NULL THEN NULL ELSE ttft_ms > $objective_ms AND sm_ratio < $most_sm_ratio END AS firing
FROM slow, gpu
