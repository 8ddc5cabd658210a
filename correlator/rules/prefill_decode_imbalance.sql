-- The prefill pool of {model} has {value:.1f} times as many waiting requests as the decode pool, each.
-- severity: warning
-- for: 30s
-- threshold: most_times = 4; beyond it one pool idles while the other queues
-- threshold: least_waiting = 4; small queues say nothing
-- missing: quiet
-- runbook: move replicas from the idle role to the other
WITH role AS (
    SELECT e.model, p.role, AVG(e.value) AS waiting
    FROM engine_sample e JOIN (SELECT DISTINCT pod_uid, role FROM pod WHERE role IN ('prefill', 'decode')) p USING (pod_uid)
    WHERE e.time_ns > $now_ns - 60000000000 AND e.time_ns <= $now_ns AND e.metric = 'requests.waiting' AND e.statistic = 'value'
    GROUP BY ALL
), pool AS (
    SELECT model, MAX(waiting) FILTER (role = 'prefill') AS prefill, MAX(waiting) FILTER (role = 'decode') AS decode FROM role GROUP BY ALL
)
SELECT model, (prefill + 1) / (decode + 1) AS value,
    GREATEST(prefill, decode) >= $least_waiting
        AND GREATEST((prefill + 1) / (decode + 1), (decode + 1) / (prefill + 1)) > $most_times AS firing
FROM pool WHERE prefill IS NOT NULL AND decode IS NOT NULL
