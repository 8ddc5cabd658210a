-- In a minute {value:.0f} requests on {node} had segments sent again more than once.
-- severity: warning
-- for: 5s
-- threshold: least = 5; a few happen on every network
-- threshold: most_ratio = 0.02; share of requests: one in eight packets lost makes 4 %, a busy machine that loses none 1 %
-- missing: quiet
-- runbook: open a slow request: its network track says on which connection
-- Once is no loss: TCP sends its last segment again wherever an answer is late (tail loss probe, RFC 8985), as it is on any
-- busy machine.
SELECT node, COUNT(*) FILTER (retransmits > 1) AS value,
    COUNT(*) FILTER (retransmits > 1) >= $least
        AND COUNT(*) FILTER (retransmits > 1) / COUNT(*)::DOUBLE > $most_ratio AS firing
FROM http_exchange WHERE start_ns > $now_ns - 60000000000 AND start_ns <= $now_ns AND retransmits IS NOT NULL
GROUP BY ALL
