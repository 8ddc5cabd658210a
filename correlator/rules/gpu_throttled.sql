-- GPU {gpu_uuid} on {node} was throttled ({part}) {value:.0%} of the last minute.
-- severity: warning
-- for: 10s
-- threshold: most_ratio = 0.1; shorter throttling does not show in a request's time
-- missing: no_data
-- runbook: thermal: airflow, neighbours; power: the limit set, the board's
-- The counter is in seconds of throttling since the driver was loaded: its growth over a minute is a share.
SELECT node, gpu_uuid, part, (MAX(value) - MIN(value)) / 60.0 AS value, (MAX(value) - MIN(value)) / 60.0 > $most_ratio AS firing
FROM gpu_sample
WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns AND metric = 'warpline.gpu.throttled'
    AND part IN ('power', 'thermal', 'board_limit', 'reliability')
GROUP BY ALL
