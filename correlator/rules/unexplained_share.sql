-- {value:.0%} of the GPU time on {node} is attributed to no request.
-- severity: info
-- for: 1m
-- threshold: most_ratio = 0.1; more than a tenth unexplained makes every other number doubtful
-- threshold: least_busy_ms = 100; a GPU that does nothing explains nothing
-- missing: quiet
-- runbook: Pipeline health says what is missing: the plugin, the engine wire, or launches that were lost
-- keep: no; it is about what is always sent
SELECT COALESCE(node, 'unknown') AS node, SUM(share_ns) FILTER (owner = '__unattributed__') / NULLIF(SUM(share_ns), 0) AS value,
    SUM(share_ns) / 1e6 >= $least_busy_ms
        AND COALESCE(SUM(share_ns) FILTER (owner = '__unattributed__'), 0) / NULLIF(SUM(share_ns), 0) > $most_ratio AS firing
FROM share WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns
GROUP BY ALL
