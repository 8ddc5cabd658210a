-- GPU time per token on {gpu_uuid} is {value:.0%} above what it was a week ago.
-- severity: warning
-- for: 1m
-- threshold: most_growth_ratio = 0.2; less is the load's own variation
-- missing: quiet
-- runbook: compare a request of each time: kernels by name, clocks, batch sizes
-- keep: no; it compares weeks: a minute tells nothing more
WITH spent AS (
    SELECT s.gpu_uuid, s.time_ns > $now_ns - 600000000000 AS recent, SUM(s.share_ns) AS ns, COUNT(DISTINCT (s.process_uid, s.step_ordinal)) AS steps
    FROM share s
    WHERE s.time_ns <= $now_ns AND s.phase = 'decode'
        AND (s.time_ns > $now_ns - 600000000000 OR s.time_ns BETWEEN $now_ns - 608400000000000 AND $now_ns - 601200000000000)
    GROUP BY ALL
), token AS (
    SELECT m.time_ns > $now_ns - 600000000000 AS recent, SUM(m.scheduled_tokens) AS tokens
    FROM step_member m
    WHERE m.time_ns <= $now_ns AND m.phase = 'decode'
        AND (m.time_ns > $now_ns - 600000000000 OR m.time_ns BETWEEN $now_ns - 608400000000000 AND $now_ns - 601200000000000)
    GROUP BY ALL
), cost AS (
    SELECT gpu_uuid, MAX(ns / tokens) FILTER (recent) AS now_ns_per_token, MAX(ns / tokens) FILTER (NOT recent) AS then_ns_per_token
    FROM spent JOIN token USING (recent) WHERE tokens > 0 GROUP BY ALL
)
SELECT gpu_uuid, now_ns_per_token / then_ns_per_token - 1 AS value,
    now_ns_per_token / then_ns_per_token - 1 > $most_growth_ratio AS firing
FROM cost WHERE now_ns_per_token IS NOT NULL AND then_ns_per_token > 0
