-- One process or one named thing that a request touched, with when it did: what its timeline is made of.
-- `request` may be any id that the request is known by. `subject` is NULL for a process that only belongs to another.
-- parameters: request, since_ns, until_ns
-- within: request 60 s
-- when: request_when
WITH RECURSIVE named AS (
    SELECT $request::VARCHAR AS value
    UNION
    SELECT unnest([
        request_id, response_id, trace_id, concat_ws('/', node, coalesce(connection_id || '/' || ordinal, start_ns::VARCHAR), side),
        concat_ws('/', client_node, client_connection_id, client_ordinal, 'client')
    ])
    FROM request
    WHERE request_uid = $request::VARCHAR AND start_ns >= $since_ns - 60_000_000_000 AND start_ns < $until_ns + 60_000_000_000
), attempt AS (
    SELECT DISTINCT attempt_uid FROM alias
    WHERE request_uid = $request::VARCHAR OR attempt_uid = $request::VARCHAR OR value IN (SELECT value FROM named)
), known AS (
    SELECT value FROM named
    UNION
    SELECT value FROM alias WHERE attempt_uid IN (SELECT attempt_uid FROM attempt)
), touched AS (
    SELECT 'exchange' AS kind, node, process_uid, concat_ws('/', node, coalesce(connection_id || '/' || ordinal, start_ns::VARCHAR), side) AS subject, start_ns, end_ns
    FROM http_exchange
    WHERE request_id IN (SELECT value FROM known) OR response_id IN (SELECT value FROM known)
        OR trace_id::VARCHAR IN (SELECT value FROM known)
        OR concat_ws('/', node, coalesce(connection_id || '/' || ordinal, start_ns::VARCHAR), side) IN (SELECT value FROM known)
    UNION ALL
    SELECT 'hop', node, NULL, request_id, start_ns, end_ns FROM hop WHERE request_id IN (SELECT value FROM known)
    UNION ALL
    SELECT 'span', node, NULL, trace_id::VARCHAR, start_ns, end_ns FROM span WHERE trace_id::VARCHAR IN (SELECT value FROM known)
    UNION ALL
    SELECT 'engine_request', node, process_uid, internal_id, start_ns, end_ns FROM engine_request
    WHERE internal_id IN (SELECT value FROM known) OR external_id IN (SELECT value FROM known)
    UNION ALL
    SELECT 'kv_transfer', node, process_uid, internal_id, start_ns, end_ns FROM kv_transfer
    WHERE internal_id IN (SELECT value FROM known)
), family AS (
    SELECT process_uid FROM touched WHERE process_uid IS NOT NULL AND kind <> 'exchange'
    UNION
    SELECT process.process_uid FROM process INNER JOIN family ON process.parent_uid = family.process_uid
)
SELECT kind, node, process_uid, subject, start_ns, end_ns FROM touched
UNION ALL
SELECT DISTINCT 'process', process.node, family.process_uid, NULL::VARCHAR, NULL::BIGINT, NULL::BIGINT
FROM family LEFT JOIN process ON process.process_uid = family.process_uid
