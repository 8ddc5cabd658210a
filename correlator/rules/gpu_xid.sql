-- GPU {gpu_uuid} on {node} reported XID {value:.0f}.
-- severity: critical
-- for: 0s
-- missing: no_data
-- runbook: NVIDIA's table of XID codes says whether the application, the driver or the hardware is at fault
-- The code is sticky, 0 none: only a change of it within five minutes is news.
SELECT node, gpu_uuid, ARG_MAX(value, time_ns) AS value, MIN(value) <> MAX(value) AND ARG_MAX(value, time_ns) <> 0 AS firing
FROM gpu_sample
WHERE time_ns > $now_ns - 300000000000 AND time_ns <= $now_ns AND metric = 'warpline.gpu.xid.last'
GROUP BY ALL
