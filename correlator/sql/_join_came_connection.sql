-- What a row that came says of one connection's two initial sequence numbers, as a number.
-- within: connection 0 s
SELECT DISTINCT hash(node, connection_id, isn_sent, isn_received) AS said
FROM connection
WHERE start_ns >= $since_ns AND start_ns <= $until_ns AND isn_sent IS NOT NULL AND isn_received IS NOT NULL
