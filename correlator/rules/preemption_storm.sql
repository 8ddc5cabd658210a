-- The engine {process_uid} made {value:.1f} preemptions for each request that it ran in a minute.
-- severity: warning
-- for: 10s
-- threshold: most_ratio = 0.2; each preemption computes a prompt a second time
-- threshold: least = 5; single ones happen
-- missing: quiet
-- runbook: the KV cache is too small for the load: lower max_num_seqs, or add memory or replicas
SELECT process_uid,
    COUNT(*) FILTER (kind = 'preempted') / NULLIF(COUNT(DISTINCT internal_id), 0)::DOUBLE AS value,
    COUNT(*) FILTER (kind = 'preempted') >= $least
        AND COUNT(*) FILTER (kind = 'preempted') / NULLIF(COUNT(DISTINCT internal_id), 0)::DOUBLE > $most_ratio AS firing
FROM engine_event WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns
GROUP BY ALL
