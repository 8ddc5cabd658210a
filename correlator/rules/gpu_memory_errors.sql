-- Uncorrectable memory errors that GPU {gpu_uuid} on {node} counted in ten minutes: {value:.0f}.
-- severity: critical
-- for: 0s
-- threshold: most = 0; one is enough to drain the node
-- missing: no_data
-- runbook: drain the node, reset the GPU, look at its row remapping
SELECT node, gpu_uuid, MAX(value) - MIN(value) AS value, MAX(value) - MIN(value) > $most AS firing
FROM gpu_sample
WHERE time_ns > $now_ns - 600000000000 AND time_ns <= $now_ns AND metric = 'hw.errors'
    AND part IN ('ecc_double_volatile', 'ecc_uncorrectable', 'remapped_rows_uncorrectable')
GROUP BY node, gpu_uuid
