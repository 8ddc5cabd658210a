-- KV transfers on {node} move {value:.2f} GB/s.
-- severity: warning
-- for: 15s
-- threshold: least_gb_s = 1; a prompt of 8 k tokens of an 8 B model is a gigabyte
-- threshold: least_transfers = 5; few transfers say little
-- missing: quiet
-- runbook: look at the network's retransmits and at the NICs that NIXL chose
SELECT node, SUM(transfer_bytes) / NULLIF(SUM(end_ns - start_ns), 0) AS value,
    COUNT(*) >= $least_transfers AND SUM(transfer_bytes) / NULLIF(SUM(end_ns - start_ns), 0) < $least_gb_s AS firing
FROM kv_transfer WHERE start_ns > $now_ns - 60000000000 AND start_ns <= $now_ns AND transfer_bytes IS NOT NULL AND end_ns IS NOT NULL
GROUP BY ALL
