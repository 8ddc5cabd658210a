-- Requests that began in [$since_ns, $until_ns), and every node that each met: of its server, its client, its proxies, and
-- of the engines that computed it.
-- within: request 0..3600 s
WITH found AS (
    SELECT request_uid, attempt_uid, request_id, model, path, start_ns, end_ns, open, ttft_ns, node, client_node
    FROM request
    WHERE start_ns >= $since_ns AND start_ns < $until_ns
),
met AS (
    SELECT request_uid, unnest([node, client_node]) AS node FROM found
    UNION ALL
    -- <node>:<start>:<pid>
    SELECT found.request_uid, split_part(engine.process_uid, ':', 1)
    FROM found JOIN request_engine AS engine USING (attempt_uid)
    UNION ALL
    SELECT found.request_uid, hop.node FROM found JOIN hop USING (request_id)
    WHERE hop.start_ns >= $since_ns - 60_000_000_000 AND hop.start_ns < $until_ns + 60_000_000_000
)
SELECT
    any_value(found.model) AS model,
    any_value(found.path) AS path,
    any_value(start_ns) AS start_ns,
    any_value(end_ns) AS end_ns,
    any_value(open) AS open,
    any_value(ttft_ns) AS ttft_ns,
    list(DISTINCT met.node) FILTER (met.node IS NOT NULL) AS nodes,
    request_uid
FROM found
JOIN met USING (request_uid)
GROUP BY request_uid
