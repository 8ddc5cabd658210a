-- The prefill pool of {model} has {value:.1f} times as many waiting requests as the decode pool, each.
-- severity: warning
-- for: 30s
-- threshold: most_times = 4; beyond it one pool idles while the other queues
-- threshold: least_waiting = 4; small queues say nothing
-- missing: quiet
-- runbook: move replicas from the idle role to the other
-- An engine's pod is the one that its metrics name, else the one that has the address at which they were read.
WITH member AS (
    SELECT pod_uid, ARG_MAX(role, time_ns) AS role, ARG_MAX(pod_ip, time_ns) AS pod_ip FROM pod
    WHERE time_ns <= $now_ns GROUP BY ALL
    HAVING ARG_MAX(role, time_ns) IN ('prefill', 'decode') AND ARG_MAX(phase, time_ns) IS DISTINCT FROM 'Deleted'
), queue AS (
    SELECT model, pod_uid, REGEXP_REPLACE(target, '^\[|\]?:[0-9]+(/.*)?$', '', 'g') AS address, AVG(value) AS waiting
    FROM engine_sample
    WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns AND metric = 'requests.waiting' AND statistic = 'value'
    GROUP BY ALL
), role AS (
    SELECT q.model, m.role, AVG(q.waiting) AS waiting
    FROM queue q JOIN member m ON q.pod_uid = m.pod_uid OR q.pod_uid IS NULL AND q.address = m.pod_ip
    GROUP BY ALL
), pool AS (
    SELECT model, MAX(waiting) FILTER (role = 'prefill') AS prefill, MAX(waiting) FILTER (role = 'decode') AS decode FROM role GROUP BY ALL
)
SELECT model, (prefill + 1) / (decode + 1) AS value,
    GREATEST(prefill, decode) >= $least_waiting
        AND GREATEST((prefill + 1) / (decode + 1), (decode + 1) / (prefill + 1)) > $most_times AS firing
FROM pool WHERE prefill IS NOT NULL AND decode IS NOT NULL
