-- The p99 of {path} on {node} is {value:.0f} ms, end to end.
-- severity: warning
-- for: 30s
-- threshold: most_ms = 50; the objective of edge deployments, end to end
-- threshold: least_requests = 20; a percentile of fewer says little
-- missing: quiet
-- nodes: alerts_edge_nodes; a promise of the edge: elsewhere nearly every model takes longer, and nobody was promised less
-- runbook: open the slowest requests of that minute: network, queue, host or GPU, their findings say which
-- Inference is a POST at every model server; scrapes and probes are GETs. Of a streamed answer the first token counts: how
-- long the rest takes is the answer's length.
WITH answered AS (
    SELECT node, path, CASE WHEN chunks > 1 THEN ttft_ns ELSE duration_ns END / 1e6 AS ms
    FROM request WHERE start_ns > $now_ns - 60000000000 AND start_ns <= $now_ns AND method = 'POST'
        AND REGEXP_FULL_MATCH(node, $nodes)
)
SELECT node, path, QUANTILE_CONT(ms, 0.99) AS value,
    COUNT(*) >= $least_requests AND QUANTILE_CONT(ms, 0.99) > $most_ms AS firing
FROM answered WHERE ms IS NOT NULL
GROUP BY ALL
