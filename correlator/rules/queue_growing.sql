-- {value:.0f} requests wait at {target} ({model}), and their number grows.
-- severity: warning
-- for: 15s
-- threshold: least_waiting = 5; fewer are a batch's ordinary turnover
-- missing: no_data
-- runbook: compare arrivals with finished requests on the Overview page; scale out
WITH half AS (
    SELECT target, model, AVG(value) FILTER (time_ns > $now_ns - 15000000000) AS now_waiting,
        AVG(value) FILTER (time_ns <= $now_ns - 15000000000) AS before_waiting
    FROM engine_sample
    WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns AND metric = 'requests.waiting' AND statistic = 'value'
    GROUP BY ALL
)
SELECT target, model, now_waiting AS value,
    now_waiting >= $least_waiting AND now_waiting > COALESCE(before_waiting, 0) AS firing
FROM half WHERE now_waiting IS NOT NULL
