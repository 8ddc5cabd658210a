-- Container {container} of {namespace}/{pod} took {value:.0f} s from creation to ready.
-- severity: warning
-- for: 0s
-- threshold: most_s = 300; weights of 140 GB at 1 GB/s take half of it
-- missing: quiet
-- runbook: the Cold starts page says which phase took it: image, weights or engine
WITH life AS (
    SELECT namespace, pod, container, MIN(time_ns) FILTER (kind = 'created') AS created_ns, MIN(time_ns) FILTER (kind = 'ready') AS ready_ns
    FROM container_state WHERE time_ns > $now_ns - 3600000000000 AND time_ns <= $now_ns GROUP BY ALL
)
SELECT namespace, pod, container, (COALESCE(ready_ns, $now_ns) - created_ns) / 1e9 AS value,
    (COALESCE(ready_ns, $now_ns) - created_ns) / 1e9 > $most_s AND COALESCE(ready_ns, $now_ns) > $now_ns - 600000000000 AS firing
FROM life WHERE created_ns IS NOT NULL
