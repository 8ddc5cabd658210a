-- One bar on the timeline of one request: what it is (name), where it is drawn (group, track, depth), from when to when,
-- what else is known (detail, JSON) and how (evidence).
-- parameters: request_uid
WITH asked AS (SELECT * FROM request WHERE request_uid = $request_uid),
bars AS (
    SELECT
        'client' AS "group",
        coalesce(client_process_uid, client_node) AS track,
        concat_ws(' ', method, path) AS name,
        client_start_ns AS start_ns,
        client_end_ns AS end_ns,
        0 AS depth,
        json_object('status', status, 'time to first token, ns', client_ttft_ns) AS detail,
        evidence
    FROM asked
    WHERE client_start_ns IS NOT NULL
    UNION ALL
    SELECT 'server', coalesce(process_uid, node), concat_ws(' ', method, path), start_ns, end_ns, 0,
        json_object('status', status, 'chunks', chunks, 'bytes', bytes, 'time to first token, ns', ttft_ns), evidence
    FROM asked
    WHERE side = 'server'
    UNION ALL
    SELECT
        CASE WHEN side = 'server' THEN 'server' ELSE 'client' END,
        coalesce(process_uid, node),
        phase.name,
        phase.start_ns,
        phase.end_ns,
        1,
        json_object(),
        evidence
    FROM asked, unnest([
        {'name': 'receiving', 'start_ns': start_ns, 'end_ns': request_end_ns},
        {'name': 'waiting for first byte', 'start_ns': request_end_ns, 'end_ns': coalesce(first_body_ns, response_start_ns)},
        {'name': 'streaming', 'start_ns': first_body_ns, 'end_ns': coalesce(last_chunk_ns, end_ns)}
    ]) AS phases (phase)
    WHERE phase.start_ns IS NOT NULL AND phase.end_ns >= phase.start_ns
    UNION ALL
    SELECT
        'network',
        concat(connection.node, ' ', connection.local_address, ':', connection.local_port, ' ', connection.role),
        concat('connection to ', connection.peer_address, ':', connection.peer_port),
        connection.start_ns,
        coalesce(connection.end_ns, asked.end_ns),
        0,
        json_object('state', connection.state, 'retransmits', connection.retransmits, 'smoothed round trip, ns',
            connection.smoothed_rtt_ns),
        'exact'
    FROM asked
    JOIN connection
        ON (connection.node = asked.node AND connection.connection_id = asked.connection_id)
        OR (connection.node = asked.client_node AND connection.connection_id = asked.client_connection_id)
    QUALIFY row_number() OVER (
        PARTITION BY connection.node, connection.connection_id ORDER BY connection.end_ns DESC NULLS LAST
    ) = 1
)
SELECT "group", track, name, start_ns, end_ns, depth, detail, evidence
FROM bars
ORDER BY CASE "group" WHEN 'client' THEN 0 WHEN 'network' THEN 1 ELSE 2 END, track, depth, start_ns
