-- One minute with exchanges on connections of which something new was said: on one of an hour at most, as identity reads them.
-- within: connection 0 s, http_exchange 3600 s
SELECT min(http_exchange.start_ns) AS first_ns, max(http_exchange.start_ns) AS last_ns
FROM http_exchange
SEMI JOIN (
    SELECT node, connection_id FROM connection
    WHERE start_ns >= $since_ns AND start_ns <= $until_ns
        AND hash(node, connection_id, isn_sent, isn_received) >> 1 IN (SELECT unnest($new::UBIGINT[]))
) AS said ON said.node = http_exchange.node AND said.connection_id = http_exchange.connection_id
WHERE http_exchange.start_ns >= $since_ns - 60000000000 AND http_exchange.start_ns < $until_ns + 3600000000000
GROUP BY http_exchange.start_ns // 60000000000
