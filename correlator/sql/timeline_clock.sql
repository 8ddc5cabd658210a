-- What bounds one node's time against another's nearest to a moment.
-- parameters: at_ns, nodes
SELECT node, other_node, low_ns, high_ns, status, time_ns
FROM clock_edge
WHERE node IN (SELECT unnest($nodes::VARCHAR[])) AND other_node IN (SELECT unnest($nodes::VARCHAR[]))
QUALIFY row_number() OVER (PARTITION BY node, other_node ORDER BY abs(time_ns - $at_ns)) = 1
