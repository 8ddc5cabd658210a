-- The prefill of {culprit} delayed {value:.0f} other requests.
-- severity: warning
-- for: 0s
-- threshold: most = 10; a prompt that holds up more than ten others belongs into smaller chunks
-- threshold: least_delay_ms = 50; less does not show
-- missing: quiet
-- runbook: lower max_num_batched_tokens, or send long prompts to a prefill pool
WITH pair AS (
    SELECT culprit, victim FROM blame
    WHERE start_ns > $now_ns - 60000000000 AND start_ns <= $now_ns AND kind = 'prefill'
    GROUP BY ALL
    HAVING SUM(delay_ns) / 1e6 >= $least_delay_ms
)
SELECT culprit, COUNT(*) AS value, COUNT(*) > $most AS firing
FROM pair
GROUP BY culprit
