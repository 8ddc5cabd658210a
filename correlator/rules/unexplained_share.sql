-- {value:.0%} of the GPU time on {node} is attributed to no request.
-- severity: info
-- for: 1m
-- threshold: most_ratio = 0.1; more than a tenth unexplained makes every other number doubtful
-- threshold: least_busy_ms = 100; a GPU that does nothing explains nothing
-- missing: quiet
-- runbook: Pipeline health says what is missing: the plugin, the engine wire, or launches that were lost
-- keep: no; it is about what is always sent
-- The node is named after the sums: to name it for each of 4 million rows takes as long as to sum them.
WITH summed AS (
    SELECT node, SUM(share_ns) AS ns, SUM(share_ns) FILTER (owner = '__unattributed__') AS unexplained_ns
    FROM share WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns
    GROUP BY node
)
SELECT COALESCE(node, 'unknown') AS node, unexplained_ns / NULLIF(ns, 0) AS value,
    ns / 1e6 >= $least_busy_ms AND COALESCE(unexplained_ns, 0) / NULLIF(ns, 0) > $most_ratio AS firing
FROM summed
