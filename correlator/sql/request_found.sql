-- One request as `request` tells it, found by any id that it is known by: its own, x-request-id, the response's or the trace's.
-- parameters: id, since_ns, until_ns
-- within: request 30 s
-- parts: http_exchange 30 s, alias 30 s, engine_request 30 s, engine_event 30 s, engine_emission 30 s, engine_sample 600 s
-- when: request_when
SELECT request.*
FROM request
WHERE start_ns >= $since_ns - 30_000_000_000 AND start_ns < $until_ns + 30_000_000_000
    AND (
        request_uid = $id::VARCHAR OR request_id = $id::VARCHAR OR response_id = $id::VARCHAR
        OR trace_id = replace($id::VARCHAR, '-', '') OR internal_id = $id::VARCHAR OR attempt_uid = $id::VARCHAR
    )
ORDER BY start_ns
