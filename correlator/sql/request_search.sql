-- One request that fits a search. A filter that is '*' lets everything through, as does `method` where it is not given; `outcome` is ok, failed or open; times in ns.
-- parameters: since_ns, until_ns, method, text, path, pod, outcome, least_ns, most_ns
-- within: request 0..3600 s
SELECT request_uid, start_ns, end_ns, open, node, pod, namespace, model, side, method, path, status, grpc_status, ttft_ns, duration_ns, longest_gap_ns,
    chunks, request_bytes, bytes, retransmits, client_node, client_start_ns, client_end_ns, 
    client_end_ns - client_start_ns AS client_duration_ns, request_id, response_id, trace_id, ended_by, evidence
FROM request
WHERE start_ns >= $since_ns AND start_ns < $until_ns
    AND ($method::VARCHAR = '*' OR coalesce(method, $method::VARCHAR) = $method::VARCHAR)
    AND ($text::VARCHAR = '*' OR contains(
        lower(concat_ws(' ', request_uid, request_id, response_id, trace_id, pod, path, method, node, status, model)), lower($text::VARCHAR)
    ))
    AND ($path::VARCHAR = '*' OR path = $path::VARCHAR)
    AND ($pod::VARCHAR = '*' OR coalesce(pod, node) = $pod::VARCHAR)
    AND (
        $outcome::VARCHAR = '*'
        OR $outcome::VARCHAR = CASE
            WHEN open THEN 'open'
            WHEN status >= 400 OR grpc_status > 0 OR ended_by = 'abort' OR status IS NULL THEN 'failed'
            ELSE 'ok'
        END
    )
    AND coalesce(duration_ns, 0) >= $least_ns::BIGINT AND coalesce(duration_ns, 0) <= $most_ns::BIGINT
