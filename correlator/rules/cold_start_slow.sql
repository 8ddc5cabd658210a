-- Container {container} of {namespace}/{pod} took {value:.0f} s from creation to ready.
-- severity: warning
-- for: 0s
-- threshold: most_s = 300; weights of 140 GB at 1 GB/s take half of it
-- missing: quiet
-- runbook: the Cold starts page says which phase took it: image, weights or engine
-- Its pod's creation, where the cluster tells it, so that a GPU awaited and an image pulled count; else the container's own.
-- A container that ended without being ready (an init container, a job's) is no cold start; nor is a restart in an old pod.
WITH birth AS (
    SELECT pod_uid, MIN(created_ns) AS created_ns FROM pod WHERE pod_uid IS NOT NULL GROUP BY ALL
), life AS (
    SELECT pod_uid, namespace, pod, container, MIN(time_ns) FILTER (kind = 'created') AS created_ns,
        MIN(time_ns) FILTER (kind = 'ready') AS ready_ns, BOOL_OR(kind IN ('exited', 'oom')) AS ended
    FROM container_state WHERE time_ns > $now_ns - 3600000000000 AND time_ns <= $now_ns GROUP BY ALL
), start AS (
    SELECT namespace, pod, container, COALESCE(birth.created_ns, life.created_ns) AS created_ns,
        COALESCE(ready_ns, $now_ns) AS ready_ns
    FROM life LEFT JOIN birth USING (pod_uid) WHERE ready_ns IS NOT NULL OR NOT ended
)
SELECT namespace, pod, container, (ready_ns - created_ns) / 1e9 AS value,
    (ready_ns - created_ns) / 1e9 > $most_s AND ready_ns > $now_ns - 600000000000 AS firing
FROM start WHERE created_ns > $now_ns - 3600000000000 AND created_ns <= $now_ns
