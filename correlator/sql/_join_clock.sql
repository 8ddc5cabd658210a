-- One exchange between two nodes, stamped at both ends: the request left `node` and came to `other_node`, the answer back.
-- within: http_exchange 0 s, edge 0 s
WITH seen AS (
    SELECT *, concat_ws('/', node, coalesce(connection_id || '/' || ordinal, start_ns::VARCHAR), side) AS uid
    FROM http_exchange
    WHERE start_ns >= $since_ns AND start_ns < $until_ns AND coalesce(open_at_start, false) = false
    QUALIFY row_number() OVER (PARTITION BY uid, start_ns ORDER BY end_ns DESC NULLS LAST) = 1
)
SELECT c.node, s.node AS other_node, c.start_ns AS sent_ns, s.start_ns AS received_ns, s.response_start_ns AS answered_ns,
    c.response_start_ns AS heard_ns
FROM edge
JOIN seen AS c ON c.uid = edge.from_id
JOIN seen AS s ON s.uid = edge.to_id
WHERE edge.relation = 'received_as' AND edge.time_ns >= $since_ns AND edge.time_ns < $until_ns AND c.node <> s.node
    AND edge.evidence = 'exact'
    -- A segment that was sent again arrived later than it seems: such messages bound nothing tightly, and may mislead.
    AND coalesce(c.retransmits, 0) = 0 AND coalesce(s.retransmits, 0) = 0
ORDER BY ALL
