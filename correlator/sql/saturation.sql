-- How full the GPUs are, and who waits, over the 30 s before $now_ns: one row for the fleet. What an autoscaler scales on.
-- parameters: now_ns
--
-- Saturation is the mean SM activity of all GPUs and MIG instances, whole where requests wait at engines whose GPUs do not
-- tell SM activity (it is off in dcgm-exporter's default list). NULL where nothing is known: an autoscaler must not take that
-- for idle.
WITH sample AS (
    SELECT
        avg(value) FILTER (metric = 'warpline.gpu.pipe.active' AND part = 'sm') AS sm_ratio,
        avg(value) FILTER (metric = 'warpline.gpu.pipe.active' AND part = 'graphics') AS graphics_ratio
    FROM gpu_sample
    WHERE time_ns > $now_ns::BIGINT - 30_000_000_000 AND time_ns <= $now_ns::BIGINT
        AND metric = 'warpline.gpu.pipe.active' AND part IN ('sm', 'graphics')
),
engine AS (
    SELECT target, model, engine_index,
        arg_max(value, time_ns) FILTER (metric = 'requests.waiting') AS waiting,
        arg_max(value, time_ns) FILTER (metric = 'requests.running') AS running
    FROM engine_sample
    WHERE time_ns > $now_ns::BIGINT - 30_000_000_000 AND time_ns <= $now_ns::BIGINT
        AND metric IN ('requests.waiting', 'requests.running') AND statistic = 'value'
    GROUP BY ALL
),
queue AS (SELECT sum(waiting) AS waiting, sum(running) AS running FROM engine)
SELECT
    $now_ns::BIGINT AS time_ns,
    CASE WHEN sm_ratio IS NULL AND graphics_ratio IS NULL AND waiting > 0 THEN 1.0 ELSE coalesce(sm_ratio, graphics_ratio) END
        AS saturation,
    waiting,
    running
FROM sample, queue
