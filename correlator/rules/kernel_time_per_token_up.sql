-- GPU time per output token of {model} on {gpu_uuid} is {value:.0%} above what it was a week ago.
-- severity: warning
-- for: 1m
-- threshold: most_growth_ratio = 0.2; less is the load's own variation
-- threshold: least_tokens = 50; the cost of fewer is their batches' chance
-- missing: quiet
-- runbook: compare a request of each time: kernels by name, clocks, versions of engine and driver
-- keep: no; it compares weeks: a minute tells nothing more
-- Like is compared with like: steps of the same number of tokens, up to a power of two. A step of one costs hardly less than
-- one of sixty-four: a quiet hour would look like slow kernels. Where nothing is known of then, the last ten minutes, which may
-- be 40 million rows, are not read.
WITH earlier AS MATERIALIZED (
    SELECT 1 FROM share WHERE time_ns BETWEEN $now_ns - 606000000000000 AND $now_ns - 604200000000000 LIMIT 1
), step AS (
    SELECT time_ns > $now_ns - 600000000000 AS recent, process_uid, gpu_uuid, step_ordinal, SUM(share_ns) AS ns
    FROM share
    WHERE EXISTS (FROM earlier) AND phase = 'decode' AND (time_ns > $now_ns - 600000000000 AND time_ns <= $now_ns
        OR time_ns BETWEEN $now_ns - 606000000000000 AND $now_ns - 604200000000000)
    GROUP BY ALL
), member AS (
    SELECT time_ns > $now_ns - 600000000000 AS recent, process_uid, step_ordinal, FLOOR(LOG2(SUM(scheduled_tokens))) AS size,
        SUM(scheduled_tokens - COALESCE(draft_tokens, 0) + COALESCE(accepted_tokens, 0)) FILTER (phase = 'decode') AS tokens
    FROM step_member
    WHERE EXISTS (FROM earlier) AND (time_ns > $now_ns - 600000000000 AND time_ns <= $now_ns
        OR time_ns BETWEEN $now_ns - 606000000000000 AND $now_ns - 604200000000000)
    GROUP BY ALL
), served AS (
    SELECT process_uid, ANY_VALUE(model) AS model FROM engine_request
    WHERE model IS NOT NULL AND (start_ns > $now_ns - 600000000000 AND start_ns <= $now_ns
        OR start_ns BETWEEN $now_ns - 606000000000000 AND $now_ns - 604200000000000)
    GROUP BY ALL
), cost AS (
    SELECT COALESCE(model, 'unknown') AS model, gpu_uuid, size,
        SUM(ns) FILTER (recent) AS ns, SUM(tokens) FILTER (recent) AS tokens,
        SUM(ns) FILTER (NOT recent) AS then_ns, SUM(tokens) FILTER (NOT recent) AS then_tokens
    FROM step JOIN member USING (recent, process_uid, step_ordinal) LEFT JOIN served USING (process_uid)
    WHERE tokens > 0
    GROUP BY ALL
)
SELECT model, gpu_uuid, SUM(ns) / SUM(tokens * then_ns / then_tokens) - 1 AS value,
    LEAST(SUM(tokens), SUM(then_tokens)) >= $least_tokens
        AND SUM(ns) / SUM(tokens * then_ns / then_tokens) - 1 > $most_growth_ratio AS firing
FROM cost WHERE tokens > 0 AND then_ns > 0 GROUP BY ALL
