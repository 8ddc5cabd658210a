-- One bar on the timeline of one request: what it is (name), where it is drawn (group, track, depth), from when to when,
-- what else is known (detail, JSON) and how (evidence).
-- parameters: request_uid, since_ns, until_ns
-- within: request 60 s, request_engine 60 s, share 60 s
-- parts: http_exchange 30 s, alias 30 s, engine_request 30 s, engine_event 30 s, engine_emission 30 s, engine_sample 600 s
-- when: request_when
WITH asked AS (
    SELECT * FROM request
    WHERE request_uid = $request_uid AND start_ns >= $since_ns - 60_000_000_000 AND start_ns < $until_ns + 60_000_000_000
),
engine AS (
    SELECT request_engine.*
    FROM asked
    JOIN request_engine ON request_engine.attempt_uid = asked.attempt_uid
),
own_step AS (
    SELECT share.process_uid, share.step_ordinal, engine.internal_id, min(share.time_ns) AS start_ns,
        sum(share.share_ns)::BIGINT AS share_ns, any_value(share.phase) AS phase,
        max_by(share.evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], share.evidence)) AS evidence
    FROM engine
    JOIN share ON share.owner = engine.internal_id AND share.time_ns BETWEEN engine.start_ns - 1_000_000_000
        AND engine.end_ns + 1_000_000_000
    WHERE share.step_ordinal IS NOT NULL
    GROUP BY ALL
),
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
        'engine',
        concat(engine.process_uid, ' ', engine.internal_id),
        phase.name,
        phase.start_ns,
        phase.end_ns,
        0,
        json_object('prompt tokens', prompt_tokens, 'cached tokens', cached_tokens, 'output tokens', output_tokens),
        engine.evidence
    FROM engine, unnest([
        {'name': 'queue', 'start_ns': start_ns, 'end_ns': scheduled_ns},
        {'name': 'prefill', 'start_ns': scheduled_ns, 'end_ns': first_token_ns},
        {'name': 'decode', 'start_ns': first_token_ns, 'end_ns': end_ns}
    ]) AS phases (phase)
    WHERE phase.start_ns IS NOT NULL AND phase.end_ns >= phase.start_ns
    UNION ALL
    -- A step's bar begins with its first execution; its length is the request's own share of it, not the step's.
    SELECT
        'GPU share',
        concat(process_uid, ' ', internal_id),
        concat('step ', step_ordinal),
        start_ns,
        start_ns + share_ns,
        0,
        json_object('phase', phase, 'share, ns', share_ns),
        evidence
    FROM own_step
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
ORDER BY list_position(['client', 'network', 'server', 'engine', 'GPU share'], "group"), track, depth, start_ns
