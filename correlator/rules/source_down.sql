-- Source {source} on {node} is down.
-- severity: warning
-- for: 1m
-- missing: no_data
-- runbook: `warpline check` on the node says why and what to do
-- keep: no; what does not run records nothing
-- Only a source that has run counts: one that cannot run on a node is no fault.
WITH last AS (
    SELECT node, source, ARG_MAX(up, time_ns) AS up, ARG_MAX(reason, time_ns) AS reason, BOOL_OR(up) AS has_run
    FROM source_state WHERE time_ns > $now_ns - 86400000000000 AND time_ns <= $now_ns GROUP BY ALL
)
SELECT node, source, (NOT up)::INTEGER AS value, NOT up AND reason <> 'stopped' AS firing FROM last WHERE has_run
