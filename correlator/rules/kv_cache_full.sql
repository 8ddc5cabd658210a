-- The KV cache of {target} ({model}) is {value:.0%} full.
-- severity: warning
-- for: 30s
-- threshold: most_used_ratio = 0.95; beyond it the next long request preempts another
-- missing: no_data
-- runbook: look for preemptions on the requests' timelines; lower max_num_seqs, or add memory or replicas
SELECT target, model, AVG(value) AS value, AVG(value) > $most_used_ratio AS firing
FROM engine_sample
WHERE time_ns > $now_ns - 30000000000 AND time_ns <= $now_ns AND metric = 'kv.used' AND statistic = 'value'
GROUP BY ALL
