-- The collector on {node} has been silent for {value:.0f} s.
-- severity: critical
-- for: 0s
-- threshold: most_s = 15; a collector sends its clocks every second
-- missing: no_data
-- runbook: look at the DaemonSet's pod on that node; its queue on disk keeps what it could not send
-- keep: no; its collector does not hear
SELECT node, ($now_ns - MAX(time_ns)) / 1e9 AS value, ($now_ns - MAX(time_ns)) / 1e9 > $most_s AS firing
FROM clock_pair WHERE time_ns > $now_ns - 3600000000000 AND time_ns <= $now_ns
GROUP BY ALL
