-- KV transfers move {value:.2f} GB/s (engine {target}, node {node}).
-- severity: warning
-- for: 15s
-- threshold: least_gb_s = 1; a prompt of 8 k tokens of an 8 B model is a gigabyte
-- threshold: least_transfers = 5; few transfers say little
-- missing: quiet
-- runbook: look at the network's retransmits and at the NICs that NIXL chose
-- Single transfers where they are known, else what the engines count of them. A counter that fell was begun anew.
WITH reading AS (
    SELECT time_ns, target, engine_index, metric, statistic, value, value - LAG(value) OVER (
        PARTITION BY target, engine_index, metric, statistic ORDER BY time_ns) AS more
    FROM engine_sample
    WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns AND metric IN ('kv.transfer', 'kv.transfer.bytes')
        AND statistic IN ('sum', 'count') AND part IS NULL
), counted AS (
    SELECT target, SUM(IF(more < 0, value, more)) FILTER (metric = 'kv.transfer.bytes' AND statistic = 'sum') AS bytes,
        SUM(IF(more < 0, value, more)) FILTER (metric = 'kv.transfer' AND statistic = 'sum') AS seconds,
        SUM(IF(more < 0, value, more)) FILTER (metric = 'kv.transfer' AND statistic = 'count') AS transfers
    FROM reading GROUP BY ALL
), told AS (
    SELECT node, NULL AS target, SUM(transfer_bytes) AS bytes, SUM(end_ns - start_ns) / 1e9 AS seconds, COUNT(*) AS transfers
    FROM kv_transfer
    WHERE start_ns > $now_ns - 60000000000 AND start_ns <= $now_ns AND transfer_bytes IS NOT NULL AND end_ns IS NOT NULL
    GROUP BY ALL
    UNION ALL BY NAME
    SELECT target, bytes, seconds, transfers FROM counted WHERE bytes IS NOT NULL AND seconds > 0
)
SELECT node, target, bytes / NULLIF(seconds, 0) / 1e9 AS value,
    transfers >= $least_transfers AND bytes / NULLIF(seconds, 0) / 1e9 < $least_gb_s AS firing
FROM told
