-- One bar of a timeline: something that lasted (or an instant, where both ends are equal) on one lane of one node.
-- An end that is not known yet is the greatest BIGINT. `subject` names what the bar belongs to,
-- where it is one request's: an exchange (as the identity join names it), a request id, a trace id, an engine's id.
SELECT 'exchange.' || side AS lane, node, process_uid, host AS unit, connection_id AS number, NULL::BIGINT AS rank, 0 AS depth,
    start_ns, coalesce(end_ns, 9223372036854775807) AS end_ns, concat_ws(' ', method, path) AS name,
    CASE WHEN status >= 500 OR grpc_status > 0 OR ended_by = 'abort' THEN 'failed' WHEN status >= 400 THEN 'refused' ELSE 'request' END AS class,
    NULL::BIGINT AS step_ordinal, NULL::BIGINT AS session, NULL::BIGINT AS correlation_id,
    concat_ws('/', node, coalesce(connection_id || '/' || ordinal, start_ns::VARCHAR), side) AS subject, NULL::VARCHAR AS recording_uid, NULL::BOOLEAN AS simulated
FROM http_exchange
UNION ALL
SELECT 'exchange.' || side, node, process_uid, host, connection_id, NULL, 1, start_ns, request_end_ns, 'send request', 'send',
    NULL, NULL, NULL, concat_ws('/', node, coalesce(connection_id || '/' || ordinal, start_ns::VARCHAR), side), NULL, NULL
FROM http_exchange WHERE request_end_ns > start_ns
UNION ALL
SELECT 'exchange.' || side, node, process_uid, host, connection_id, NULL, 1, coalesce(request_end_ns, start_ns),
    coalesce(first_body_ns, response_start_ns), 'wait for first byte', 'wait',
    NULL, NULL, NULL, concat_ws('/', node, coalesce(connection_id || '/' || ordinal, start_ns::VARCHAR), side), NULL, NULL
FROM http_exchange WHERE coalesce(first_body_ns, response_start_ns) > coalesce(request_end_ns, start_ns)
UNION ALL
SELECT 'exchange.' || side, node, process_uid, host, connection_id, NULL, 1, first_body_ns,
    coalesce(last_chunk_ns, end_ns),
    -- A client that reads late gets several of the server's chunks in one: that the two numbers differ is no loss.
    'stream' || coalesce(' · ' || chunks || CASE chunks WHEN 1 THEN ' chunk' ELSE ' chunks' END
        || CASE side WHEN 'client' THEN ' read' ELSE ' sent' END, ''), 'stream',
    NULL, NULL, NULL, concat_ws('/', node, coalesce(connection_id || '/' || ordinal, start_ns::VARCHAR), side), NULL, NULL
FROM http_exchange WHERE coalesce(last_chunk_ns, end_ns) > first_body_ns
UNION ALL
SELECT 'hop', node, NULL, proxy, NULL, NULL, 0, start_ns, coalesce(end_ns, 9223372036854775807),
    concat_ws(' ', method, path, response_flags),
    CASE WHEN status >= 500 OR status = 0 THEN 'failed' WHEN status >= 400 THEN 'refused' ELSE 'request' END,
    NULL, NULL, NULL, request_id, NULL, NULL
FROM hop
UNION ALL
-- Depth follows the span's kind, which keeps a service's own spans under the one that it served.
SELECT 'span', node, NULL, service, NULL, NULL, CASE kind WHEN 'server' THEN 0 WHEN 'consumer' THEN 0 WHEN 'internal' THEN 1 ELSE 2 END,
    start_ns, coalesce(end_ns, 9223372036854775807), name, CASE status WHEN 'error' THEN 'failed' ELSE 'span' END,
    NULL, NULL, NULL, trace_id::VARCHAR, NULL, NULL
FROM span
UNION ALL
SELECT 'connection', node, process_uid, peer_address, connection_id, NULL, 0, start_ns, coalesce(end_ns, 9223372036854775807),
    concat_ws(' ', transport, role, CASE WHEN retransmits = 1 THEN '· 1 retransmit in its whole life'
        WHEN retransmits > 1 THEN '· ' || retransmits || ' retransmits in its whole life' END),
    'connection', NULL, NULL, NULL, concat_ws('/', node, connection_id), NULL, NULL
FROM connection
QUALIFY row_number() OVER (PARTITION BY node, connection_id ORDER BY end_ns DESC NULLS LAST, sent_bytes DESC NULLS LAST) = 1
UNION ALL
-- A connection counts over its whole life, an exchange while it lasted: that is what is told in the colour of an alarm.
SELECT 'connection', node, process_uid, peer_address, connection_id, NULL, 1, start_ns, end_ns,
    CASE retransmits WHEN 1 THEN '1 retransmit' ELSE retransmits || ' retransmits' END || ' while this request lasted', 'resent',
    NULL, NULL, NULL, concat_ws('/', node, connection_id || '/' || ordinal, side), NULL, NULL
FROM http_exchange WHERE retransmits > 0 AND connection_id IS NOT NULL AND end_ns > start_ns
UNION ALL
SELECT 'flow', node, NULL, coalesce(source_pod, source_address), NULL, NULL, 0, time_ns, time_ns,
    concat_ws(' ', verdict, drop_reason), CASE verdict WHEN 'DROPPED' THEN 'failed' WHEN 'ERROR' THEN 'failed' ELSE 'flow' END,
    NULL, NULL, NULL, request_id, NULL, NULL
FROM flow
UNION ALL
SELECT 'syscall', node, process_uid, NULL, thread_id, NULL, 0, start_ns, coalesce(end_ns, 9223372036854775807), name,
    CASE WHEN result < 0 THEN 'refused' ELSE 'syscall' END, NULL, NULL, NULL, NULL, NULL, NULL
FROM syscall
UNION ALL
SELECT 'off_cpu', node, process_uid, NULL, thread_id, NULL, 0, start_ns, coalesce(end_ns, 9223372036854775807), reason, reason,
    NULL, NULL, NULL, NULL, NULL, NULL
FROM off_cpu
UNION ALL
SELECT 'phase', node, process_uid, model, NULL, NULL, 0, start_ns, coalesce(end_ns, 9223372036854775807), phase, phase,
    NULL, NULL, NULL, request_id, recording_uid, NULL
FROM engine_phase
UNION ALL
-- A state of a request lasts until its next change.
SELECT 'phase', node, process_uid, NULL, engine_index, NULL, 0, time_ns,
    coalesce(lead(time_ns) OVER (PARTITION BY process_uid, internal_id ORDER BY time_ns), time_ns),
    CASE kind WHEN 'queued' THEN 'queue' WHEN 'scheduled' THEN 'prefill' WHEN 'first_token' THEN 'decode'
        WHEN 'resumed' THEN 'recompute' ELSE kind END,
    CASE kind WHEN 'queued' THEN 'queue' WHEN 'scheduled' THEN 'prefill' WHEN 'first_token' THEN 'decode'
        WHEN 'resumed' THEN 'recompute' WHEN 'preempted' THEN 'queue' ELSE kind END,
    step_ordinal, NULL, NULL, internal_id, NULL, simulated
FROM engine_event
UNION ALL
SELECT 'engine_request', node, process_uid, model, engine_index, NULL, 0, start_ns, coalesce(end_ns, 9223372036854775807),
    concat_ws(' ', nullif(role, 'whole'), internal_id), CASE finish_reason WHEN 'error' THEN 'failed' WHEN 'abort' THEN 'failed' ELSE 'request' END,
    NULL, NULL, NULL, internal_id, NULL, simulated
FROM engine_request
QUALIFY row_number() OVER (PARTITION BY process_uid, internal_id ORDER BY end_ns DESC NULLS LAST, output_tokens DESC NULLS LAST) = 1
UNION ALL
SELECT 'step', node, process_uid, NULL, engine_index, rank, 0, start_ns, coalesce(end_ns, 9223372036854775807),
    coalesce(requests || CASE requests WHEN 1 THEN ' request' ELSE ' requests' END, annotation, 'step'),
    CASE WHEN dummy THEN 'dummy' WHEN context_tokens > 0 AND generation_tokens > 0 THEN 'mixed'
        WHEN context_tokens > 0 THEN 'prefill' ELSE 'decode' END,
    ordinal, NULL, NULL, NULL, recording_uid, simulated
FROM engine_step
UNION ALL
SELECT 'member', step.node, step.process_uid, NULL, step.engine_index, NULL, 0, step.start_ns,
    coalesce(step.end_ns, 9223372036854775807), concat_ws(' ', member.phase, member.scheduled_tokens || CASE member.scheduled_tokens WHEN 1 THEN ' token' ELSE ' tokens' END), member.phase,
    step.ordinal, NULL, NULL, member.internal_id, NULL, member.simulated
FROM step_member AS member
INNER JOIN engine_step AS step ON step.process_uid = member.process_uid AND step.ordinal = member.step_ordinal
    AND coalesce(step.rank, 0) = 0 AND step.recording_uid IS NULL
UNION ALL
SELECT 'kv_transfer', node, process_uid, direction, NULL, NULL, 0, start_ns, coalesce(end_ns, 9223372036854775807),
    concat_ws(' ', 'KV', direction, transfer_bytes || ' bytes', '(' || nullif(outcome, 'done') || ')'),
    CASE WHEN outcome = 'failed' THEN 'failed' ELSE 'memory' END,
    NULL, NULL, NULL, internal_id, NULL, simulated
FROM kv_transfer
UNION ALL
SELECT 'annotation', node, process_uid, CASE WHEN gpu_uuid IS NOT NULL THEN gpu_uuid END, coalesce(cuda_stream, thread_id), rank,
    coalesce(depth, 0), start_ns, coalesce(end_ns, 9223372036854775807), name, kind, NULL, NULL, NULL, NULL, recording_uid, NULL
FROM annotation
UNION ALL
SELECT 'launch', node, process_uid, NULL, thread_id, rank, 0, start_ns, coalesce(end_ns, 9223372036854775807), api, 'launch',
    step_ordinal, session, correlation_id, NULL, recording_uid, simulated
FROM launch
UNION ALL
-- The replay of a CUDA graph lies over the executions of its nodes. Times that cannot be used are not drawn.
SELECT 'kernel', node, process_uid, gpu_uuid, cuda_stream, rank, CASE WHEN graph_node_id IS NULL THEN 0 ELSE 1 END,
    start_ns, coalesce(end_ns, 9223372036854775807), coalesce(name, kind),
    CASE WHEN kind IN ('memcpy', 'memset') THEN 'memory' WHEN kind = 'graph' THEN 'graph' WHEN kind = 'sync' THEN 'sync'
        ELSE coalesce(kernel_class, 'other') END,
    step_ordinal, session, correlation_id, NULL, recording_uid, simulated
FROM gpu_kernel WHERE validity IS NULL OR validity = 'ok'
