-- The p99 of {path} on {node} is {value:.0f} ms, end to end.
-- severity: warning
-- for: 30s
-- threshold: most_ms = 50; the objective of edge deployments, end to end
-- threshold: least_requests = 20; a percentile of fewer says little
-- missing: quiet
-- runbook: only for nodes that serve small models at the edge: switch it off elsewhere (alerts_off)
-- Inference is a POST at every model server; scrapes and probes are GETs.
SELECT node, path, QUANTILE_CONT(duration_ns, 0.99) / 1e6 AS value,
    COUNT(*) >= $least_requests AND QUANTILE_CONT(duration_ns, 0.99) / 1e6 > $most_ms AS firing
FROM request WHERE start_ns > $now_ns - 60000000000 AND start_ns <= $now_ns AND duration_ns IS NOT NULL
    AND method = 'POST'
GROUP BY ALL
