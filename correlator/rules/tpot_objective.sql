-- Time per output token of {model} burns its error budget {value:.1f} times too fast.
-- severity: critical
-- for: 0s
-- every: 15s; five minutes hardly change in that time, and an hour of requests is dear to read: a second of CPU at 100 a second
-- threshold: objective_ms = 100; slower than ten tokens a second is slower than people read
-- threshold: allowed_ratio = 0.01; one request in a hundred may miss the objective
-- threshold: burn = 14.4; at this rate a month's budget is gone in two days (multi-window burn rates of Google's SRE workbook)
-- missing: quiet
-- runbook: open the slowest requests of the last five minutes and read their findings
WITH recent AS (
    SELECT COALESCE(model, 'unknown') AS model, start_ns, tpot_ns / 1e6 > $objective_ms AS missed
    FROM request WHERE start_ns > $now_ns - 3600000000000 AND start_ns <= $now_ns AND tpot_ns IS NOT NULL
), rate AS (
    SELECT model, AVG(missed::INTEGER) FILTER (start_ns > $now_ns - 300000000000) / $allowed_ratio AS fast,
        AVG(missed::INTEGER) / $allowed_ratio AS slow
    FROM recent GROUP BY ALL
)
-- Both windows: the short one alone would fire on a blip, the long one alone would stay after the end.
SELECT model, LEAST(fast, slow) AS value, LEAST(fast, slow) > $burn AS firing FROM rate WHERE fast IS NOT NULL
