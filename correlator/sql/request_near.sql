-- The stretch of time in which the requests began that are compared with one: of its path, seen from the same side, answered, at
-- most 1,000, the nearest: they began in [since_ns, begun_ns), and the last of them, or the request itself, ended at until_ns.
-- parameters: request_uid, since_ns, until_ns
-- within: http_exchange 0 s
WITH asked AS (
    SELECT path, method, start_ns FROM http_exchange
    WHERE start_ns = split_part($request_uid::VARCHAR, '/', -1)::BIGINT AND side = split_part($request_uid::VARCHAR, '/', 2)
        AND node = split_part($request_uid::VARCHAR, '/', 1) AND connection_id = split_part($request_uid::VARCHAR, '/', -3)::BIGINT
    LIMIT 1
),
near AS (
    SELECT other.start_ns, other.end_ns
    FROM http_exchange AS other
    JOIN asked ON other.path IS NOT DISTINCT FROM asked.path AND other.method IS NOT DISTINCT FROM asked.method
    WHERE other.start_ns >= $since_ns AND other.start_ns < $until_ns AND other.side = split_part($request_uid::VARCHAR, '/', 2)
    ORDER BY abs(other.start_ns - asked.start_ns)
    LIMIT 1000
)
SELECT min(start_ns) AS since_ns, max(start_ns) + 1 AS begun_ns, max(coalesce(end_ns, start_ns)) + 1 AS until_ns, count(*) AS requests
FROM near
HAVING count(*) > 0
