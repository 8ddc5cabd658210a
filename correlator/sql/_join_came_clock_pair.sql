-- The time that readings of wall clocks which came date anew: until the next reading, ten minutes at most, where anything ran that
-- only its wall clock dates; of a node's first reading the ten minutes before it too.
-- within: clock_pair 720 s
WITH reading AS (
    SELECT time_ns, lag(time_ns) OVER each AS before_ns, lead(time_ns) OVER each AS after_ns
    FROM (
        SELECT DISTINCT node, time_ns FROM clock_pair
        WHERE time_ns >= $since_ns - 720000000000 AND time_ns <= $until_ns + 720000000000
    )
    WINDOW each AS (PARTITION BY node ORDER BY time_ns)
),
dated AS (
    SELECT min(CASE WHEN before_ns IS NULL THEN time_ns - 720000000000 ELSE time_ns END) AS first_ns,
        max(coalesce(after_ns, time_ns + 720000000000)) AS last_ns
    FROM reading
    WHERE time_ns >= $since_ns AND time_ns <= $until_ns
)
SELECT min(ran.time_ns) AS first_ns, max(ran.time_ns) AS last_ns
FROM dated
JOIN (
    SELECT time_ns FROM step_member WHERE level IN ('batches', 'windows') AND time_ns >= $since_ns - 720000000000
        AND time_ns <= $until_ns + 720000000000
    UNION ALL
    SELECT start_ns FROM span WHERE contains(lower(concat(scope, ' ', service)), 'sglang') AND start_ns >= $since_ns - 720000000000
        AND start_ns <= $until_ns + 720000000000
    UNION ALL
    SELECT start_ns FROM engine_phase WHERE start_ns >= $since_ns - 720000000000 AND start_ns <= $until_ns + 720000000000
) AS ran ON ran.time_ns BETWEEN dated.first_ns AND dated.last_ns
GROUP BY ran.time_ns // 20000000000
