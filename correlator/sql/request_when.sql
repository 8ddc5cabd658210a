-- The stretch of time from when the first request that an id names began to when the last of them ended: read from the ids
-- alone, so that the requests themselves need not be made of all that is stored. One that goes on has no end.
-- An exchange's own id ends with when it began: whoever asks by it gives that as the window, and aliases far from it are not read.
-- parameters: id, since_ns, until_ns
-- within: alias 3600 s
WITH own AS MATERIALIZED (
    SELECT concat_ws('/', node, connection_id, ordinal, side) AS uid, start_ns, end_ns
    FROM http_exchange
    WHERE start_ns = TRY_CAST(split_part($id::VARCHAR, '/', -1) AS BIGINT)
),
-- What the joins know by the id: that is found in few rows, the things themselves then by their times. Numbers of connections
-- are used again after a boot: what lies far from an exchange's own time is another's.
known AS MATERIALIZED (
    SELECT * FROM aliases_of($id::VARCHAR) WHERE time_ns >= $since_ns - 3_600_000_000_000 AND time_ns < $until_ns + 3_600_000_000_000
),
-- Only where they know nothing, as of what came just now, is every row's own id looked at: else this is empty, and no row is read.
unknown AS MATERIALIZED (
    SELECT $id::VARCHAR AS id, TRY_CAST($id::VARCHAR AS UUID) AS trace_id
    WHERE NOT EXISTS (FROM own) AND NOT EXISTS (FROM known)
),
exchange AS (
    SELECT uid, start_ns, end_ns FROM own
    UNION ALL
    SELECT concat_ws('/', node, connection_id, ordinal, side), start_ns, end_ns
    FROM http_exchange
    WHERE start_ns IN (SELECT time_ns FROM known WHERE kind = 'exchange')
        AND concat_ws('/', node, connection_id, ordinal, side) IN (SELECT value FROM known WHERE kind = 'exchange')
    UNION ALL
    SELECT concat_ws('/', node, connection_id, ordinal, side), start_ns, end_ns
    FROM http_exchange JOIN unknown ON unknown.id IN (response_id, request_id) OR unknown.trace_id = http_exchange.trace_id
),
engine AS (
    SELECT internal_id, start_ns, end_ns
    FROM engine_request
    WHERE start_ns IN (SELECT time_ns FROM known WHERE kind = 'internal_id') AND internal_id IN (SELECT value FROM known WHERE kind = 'internal_id')
    UNION ALL
    SELECT internal_id, start_ns, end_ns FROM engine_request JOIN unknown ON unknown.id IN (internal_id, external_id)
),
-- A row that was open is written again when it ends.
found AS (
    SELECT start_ns, coalesce(max(end_ns), 1::BIGINT << 61) AS end_ns FROM exchange GROUP BY uid, start_ns
    UNION ALL
    SELECT start_ns, max(end_ns) FROM engine GROUP BY internal_id, start_ns
    UNION ALL
    SELECT time_ns, NULL FROM known
)
SELECT min(start_ns) AS since_ns, coalesce(max(end_ns), max(start_ns) + 3_600_000_000_000) AS until_ns
FROM found
HAVING count(*) > 0
