-- {value:.0f} packets to {destination_pod} were dropped in a minute: {drop_reason}.
-- severity: warning
-- for: 0s
-- threshold: most = 0; a dropped packet costs its request a retransmission timeout
-- missing: quiet
-- runbook: policy denials name the rule in Hubble; others point at the node
SELECT destination_namespace, destination_pod, drop_reason, COUNT(*) AS value, COUNT(*) > $most AS firing
FROM flow WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns AND verdict = 'DROPPED'
GROUP BY ALL
