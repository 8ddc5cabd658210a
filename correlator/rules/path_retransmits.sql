-- Requests on {node} met {value:.0f} retransmitted segments in a minute.
-- severity: warning
-- for: 5s
-- threshold: least = 10; a few happen on every network
-- threshold: most_ratio = 0.05; retransmitted segments per request
-- missing: quiet
-- runbook: open a slow request: its network track says on which connection
SELECT node, SUM(retransmits) AS value,
    SUM(retransmits) >= $least AND SUM(retransmits) / COUNT(*)::DOUBLE > $most_ratio AS firing
FROM http_exchange WHERE start_ns > $now_ns - 60000000000 AND start_ns <= $now_ns AND retransmits IS NOT NULL
GROUP BY ALL
