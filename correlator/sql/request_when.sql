-- The stretch of time from when the first request that an id names began to when the last of them ended: read from the ids
-- alone, so that the requests themselves need not be made of all that is stored. One that goes on has no end.
-- parameters: id
WITH found AS (
    SELECT start_ns, coalesce(end_ns, 1 << 61) AS end_ns
    FROM http_exchange
    WHERE request_id = $id::VARCHAR OR response_id = $id::VARCHAR OR trace_id = TRY_CAST($id::VARCHAR AS UUID)
        -- An exchange's own id ends with when it began.
        OR start_ns = TRY_CAST(split_part($id::VARCHAR, '/', -1) AS BIGINT)
    UNION ALL
    SELECT start_ns, coalesce(end_ns, start_ns + 3_600_000_000_000)
    FROM engine_request
    WHERE internal_id = $id::VARCHAR OR external_id = $id::VARCHAR
    UNION ALL
    SELECT time_ns, time_ns + 3_600_000_000_000
    FROM alias
    WHERE value = $id::VARCHAR OR attempt_uid = $id::VARCHAR OR request_uid = $id::VARCHAR
)
SELECT min(start_ns) AS since_ns, max(end_ns) AS until_ns
FROM found
HAVING count(*) > 0
