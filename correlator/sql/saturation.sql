-- How full the GPUs are, and who waits, over the 30 s before $now_ns: one row for the fleet, or for a model, a pool (a role such as
-- prefill or decode, or an inference service's name) and a namespace of it. What an autoscaler scales on.
-- parameters: now_ns, model, pool, namespace
--
-- Saturation is the mean SM activity of all GPUs and MIG instances, whole where requests wait at engines whose GPUs do not
-- tell SM activity (it is off in dcgm-exporter's default list). NULL where nothing is known: an autoscaler must not take that
-- for idle. A model's GPUs are those given to its pods, and those that its pods' processes ran on.
WITH place AS (
    SELECT pod_uid, arg_max(namespace, time_ns) AS namespace, arg_max(pod, time_ns) AS pod, arg_max(pod_ip, time_ns) AS pod_ip,
        arg_max(model, time_ns) AS model, arg_max(role, time_ns) AS role, arg_max(service, time_ns) AS service
    FROM pod
    WHERE time_ns <= $now_ns::BIGINT
    GROUP BY pod_uid
    HAVING arg_max(phase, time_ns) IS DISTINCT FROM 'Deleted'
),
reading AS (
    SELECT target, model, engine_index, any_value(pod_uid) AS pod_uid, regexp_replace(target, '^\[|\]?:[0-9]+(/.*)?$', '', 'g') AS address,
        arg_max(value, time_ns) FILTER (metric = 'requests.waiting') AS waiting,
        arg_max(value, time_ns) FILTER (metric = 'requests.running') AS running
    FROM engine_sample
    WHERE time_ns > $now_ns::BIGINT - 30_000_000_000 AND time_ns <= $now_ns::BIGINT
        AND metric IN ('requests.waiting', 'requests.running') AND statistic = 'value'
    GROUP BY ALL
),
engine AS (
    SELECT reading.*, place.pod_uid AS place_uid, place.model AS place_model, place.role, place.service, place.namespace
    FROM reading
    LEFT JOIN place ON reading.pod_uid = place.pod_uid OR reading.pod_uid IS NULL AND reading.address = place.pod_ip
),
queue AS (
    SELECT sum(waiting) AS waiting, sum(running) AS running
    FROM engine
    WHERE ($model::VARCHAR = '*' OR $model IN (model, place_model)) AND ($pool::VARCHAR = '*' OR $pool IN (role, service))
        AND ($namespace::VARCHAR = '*' OR namespace = $namespace)
),
wanted AS (
    SELECT pod_uid, namespace, pod
    FROM place
    WHERE ($model = '*' OR model = $model OR pod_uid IN (SELECT place_uid FROM engine WHERE model = $model))
        AND ($pool = '*' OR $pool IN (role, service)) AND ($namespace = '*' OR namespace = $namespace)
),
ran_on AS (
    SELECT gpu_uuid FROM gpu_busy JOIN process USING (process_uid)
    WHERE gpu_busy.end_ns > $now_ns::BIGINT - 30_000_000_000 AND gpu_busy.start_ns <= $now_ns::BIGINT
        AND process.pod_uid IN (SELECT pod_uid FROM wanted)
),
given AS (
    SELECT gpu_uuid, gpu_instance
    FROM (SELECT gpu_uuid, gpu_instance, arg_max(pod_uid, time_ns) AS pod_uid FROM gpu WHERE time_ns <= $now_ns::BIGINT GROUP BY ALL)
    WHERE pod_uid IN (SELECT pod_uid FROM wanted)
),
sample AS (
    SELECT
        avg(value) FILTER (part = 'sm') AS sm_ratio,
        avg(value) FILTER (part = 'graphics') AS graphics_ratio
    FROM gpu_sample
    WHERE time_ns > $now_ns::BIGINT - 30_000_000_000 AND time_ns <= $now_ns::BIGINT
        AND metric = 'warpline.gpu.pipe.active' AND part IN ('sm', 'graphics')
        AND (
            $model = '*' AND $pool = '*' AND $namespace = '*'
            OR pod_uid IN (SELECT pod_uid FROM wanted)
            OR pod_uid IS NULL AND (namespace, pod) IN (SELECT (namespace, pod) FROM wanted)
            OR pod_uid IS NULL AND (gpu_uuid, coalesce(gpu_instance, -1)) IN (SELECT (gpu_uuid, coalesce(gpu_instance, -1)) FROM given)
            OR pod_uid IS NULL AND gpu_uuid IN (SELECT gpu_uuid FROM ran_on)
        )
)
SELECT
    $now_ns::BIGINT AS time_ns,
    CASE WHEN sm_ratio IS NULL AND graphics_ratio IS NULL AND waiting > 0 THEN 1.0 ELSE coalesce(sm_ratio, graphics_ratio) END
        AS saturation,
    waiting,
    running
FROM sample, queue
