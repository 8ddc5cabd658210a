-- The time of schedulers' spans that came: their events, and those of spans within them, name what ran in each batch.
-- within: span 0 s
SELECT min(start_ns) - 30000000000 AS first_ns, max(coalesce(end_ns, start_ns)) + 120000000000 AS last_ns
FROM span
WHERE start_ns >= $since_ns AND start_ns <= $until_ns AND contains(lower(concat(scope, ' ', service)), 'sglang')
HAVING count(*) > 0
