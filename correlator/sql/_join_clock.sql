-- One exchange between two nodes, stamped at both ends: the request left `node` and came to `other_node`, the answer back.
-- within: http_exchange 0 s, edge 0 s
WITH seen AS (
    SELECT node, start_ns, response_start_ns, retransmits,
        concat_ws('/', node, coalesce(connection_id || '/' || ordinal, start_ns::VARCHAR), side) AS uid
    FROM http_exchange
    WHERE start_ns >= $since_ns AND start_ns < $until_ns AND coalesce(open_at_start, false) = false
    QUALIFY row_number() OVER (PARTITION BY uid, start_ns ORDER BY end_ns DESC NULLS LAST) = 1
),
-- Of two nodes, as their ids say: told apart after the joins, all clients' exchanges were held against all servers'.
paired AS (
    SELECT from_id, to_id
    FROM edge
    WHERE relation = 'received_as' AND evidence = 'exact' AND time_ns >= $since_ns AND time_ns < $until_ns
        AND split_part(from_id, '/', 1) <> split_part(to_id, '/', 1)
)
SELECT c.node, s.node AS other_node, c.start_ns AS sent_ns, s.start_ns AS received_ns, s.response_start_ns AS answered_ns,
    c.response_start_ns AS heard_ns
FROM paired
JOIN seen AS c ON c.uid = paired.from_id
JOIN seen AS s ON s.uid = paired.to_id
-- A segment that was sent again arrived later than it seems: such messages bound nothing tightly, and may mislead.
WHERE coalesce(c.retransmits, 0) = 0 AND coalesce(s.retransmits, 0) = 0
ORDER BY ALL
