-- One source on one node, in its last known state, with what it lost so far.
SELECT
    state.node,
    state.source,
    state.time_ns,
    state.up,
    state.reason,
    state.detail,
    state.rows,
    state.cost_ratio,
    state.budget_ratio,
    coalesce(missing.lost, 0) AS lost
FROM (
    SELECT * FROM source_state QUALIFY row_number() OVER (PARTITION BY node, source ORDER BY time_ns DESC) = 1
) AS state
LEFT JOIN (SELECT node, source, sum(lost)::BIGINT AS lost FROM loss GROUP BY node, source) AS missing
    ON missing.node = state.node AND missing.source = state.source
