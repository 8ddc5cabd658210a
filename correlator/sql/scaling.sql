-- One step by which what serves models was scaled, or by which somebody wanted it to be: replicas of a revision or service as
-- they changed, a target that KEDA or Knative woke or put to sleep, and what the autoscaler and the workload's controller said.
-- parameters: since_ns, until_ns
WITH stated AS (
    SELECT
        *,
        coalesce(desired_replicas, replicas) AS wanted,
        lag(coalesce(desired_replicas, replicas)) OVER states AS wanted_before,
        lag(active) OVER states AS active_before
    FROM service_state
    WINDOW states AS (PARTITION BY object_uid, revision, role ORDER BY time_ns)
),
stepped AS (
    SELECT
        time_ns, namespace, kind, object, service, revision, role, target,
        CASE
            WHEN active AND NOT active_before THEN 'woken'
            WHEN active_before AND NOT active THEN 'put to sleep'
            WHEN wanted > wanted_before THEN 'scaled up'
            WHEN wanted < wanted_before THEN 'scaled down'
        END AS step,
        wanted_before AS from_replicas,
        wanted AS to_replicas,
        coalesce(reason, triggers) AS reason
    FROM stated
),
said AS (
    SELECT
        *,
        -- "New size: 3; reason: …" of the autoscaler, "Scaled up replica set x from 1 to 3" or "to 3 from 1" of a Deployment.
        try_cast(regexp_extract(message, '(?:New size: |\bto )(\d+)', 1) AS BIGINT) AS size,
        try_cast(regexp_extract(message, '\bfrom (\d+)', 1) AS BIGINT) AS size_before
    FROM cluster_event
    WHERE reason IN ('KEDAScaleTargetActivated', 'KEDAScaleTargetDeactivated', 'SuccessfulRescale', 'ScalingReplicaSet')
)
SELECT * FROM stepped WHERE step IS NOT NULL AND time_ns >= $since_ns AND time_ns < $until_ns
UNION ALL
SELECT
    time_ns, namespace, kind, object, NULL, NULL, NULL, NULL,
    CASE
        WHEN reason = 'KEDAScaleTargetActivated' THEN 'woken'
        WHEN reason = 'KEDAScaleTargetDeactivated' THEN 'put to sleep'
        WHEN size > size_before OR contains(message, 'Scaled up') OR contains(message, 'above target') THEN 'scaled up'
        WHEN size < size_before OR contains(message, 'Scaled down') OR contains(message, 'below target') THEN 'scaled down'
        ELSE 'scaled'
    END,
    size_before, size, message
FROM said
WHERE time_ns >= $since_ns AND time_ns < $until_ns
ORDER BY time_ns
