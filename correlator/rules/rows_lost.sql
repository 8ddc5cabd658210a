-- {source} on {node} lost {value:.0f} records in a minute: {reason}.
-- severity: warning
-- for: 0s
-- threshold: most = 0; a loss is never ordinary
-- missing: quiet
-- runbook: Pipeline health shows when; raise the ring, the queue or the budget that ran out
-- keep: no; more detail would lose more
SELECT node, source, reason, SUM(lost) AS value, SUM(lost) > $most AS firing
FROM loss
WHERE start_ns > $now_ns - 60000000000 AND start_ns <= $now_ns AND reason <> 'detail lowered to keep the budget'
    AND reason <> 'step not recorded whole, to measure what recording costs'
    AND reason NOT LIKE '%redacted%'
GROUP BY ALL
