-- What was last found to bound one node's time against another's.
SELECT node, other_node, low_ns, high_ns, (high_ns - low_ns) // 2 AS half_width_ns, drift_ppb, forward, reverse, status, method, time_ns
FROM clock_edge
QUALIFY row_number() OVER (PARTITION BY node, other_node ORDER BY time_ns DESC) = 1
ORDER BY node, other_node
