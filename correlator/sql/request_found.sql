-- One request as `request` tells it, found by any id that it is known by: its own, x-request-id, the response's or the trace's.
-- parameters: id
SELECT request.*
FROM request
WHERE request_uid = $id::VARCHAR OR request_id = $id::VARCHAR OR response_id = $id::VARCHAR
    OR trace_id = replace($id::VARCHAR, '-', '') OR internal_id = $id::VARCHAR OR attempt_uid = $id::VARCHAR
ORDER BY start_ns
