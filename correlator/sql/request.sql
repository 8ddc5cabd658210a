-- One HTTP request as the correlator knows it: the server's side of the exchange, with the client's side where both were
-- seen; the client's side alone where no server was watched. Times are node time of the node that `node` names.
--
-- The sides are joined by what only one connection can have: the same ports and addresses, turned round, and the number of
-- the exchange on that connection (on one node, where numbers differ because the probe came later: the call just before).
-- HTTP/2's number is the stream's, the same at both ends, however much of its head either end could read.
--
-- A proxy's passage is no request of its own: an exchange that its server passed on, under the same trace and path or with the
-- same response, is left out, and the client is the one before the first proxy that was seen. `proxies` counts them.
-- parts: http_exchange 600 s, alias 120 s, engine_request 120 s, engine_event 120 s, engine_emission 120 s, engine_sample 600 s
WITH RECURSIVE complete AS (
    SELECT *, coalesce(end_ns, last_chunk_ns, first_body_ns, response_start_ns, request_end_ns, start_ns) AS seen_until_ns,
        CASE WHEN protocol IN ('http/2', 'grpc') THEN 'stream ' || ordinal ELSE trace_id::VARCHAR END AS known_by,
        CASE WHEN protocol IN ('http/2', 'grpc') THEN NULL ELSE request_id END AS named_by
    FROM http_exchange
    -- A row that was open is written again when it ends: the last one holds.
    QUALIFY row_number() OVER (
        PARTITION BY node, side, connection_id, ordinal, process_uid, start_ns ORDER BY end_ns DESC NULLS LAST
    ) = 1
),
server AS (SELECT * FROM complete WHERE side = 'server'),
client AS (SELECT * FROM complete WHERE side = 'client'),
paired AS (
    SELECT
        server.*,
        CASE WHEN client.start_ns IS NOT NULL THEN {
            'start_ns': client.start_ns, 'end_ns': client.seen_until_ns, 'first_body_ns': client.first_body_ns,
            'node': client.node, 'process_uid': client.process_uid, 'connection_id': client.connection_id,
            'ordinal': client.ordinal, 'retransmits': client.retransmits
        } END AS caller
    FROM server
    LEFT JOIN client
        ON client.local_port = server.peer_port
        AND client.peer_port = server.local_port
        AND client.local_address = server.peer_address
        AND client.peer_address = server.local_address
        AND client.known_by IS NOT DISTINCT FROM server.known_by
        AND client.named_by IS NOT DISTINCT FROM server.named_by
        AND (
            client.ordinal = server.ordinal
            OR (client.node = server.node AND client.start_ns <= server.start_ns AND server.protocol = 'http/1.1')
        )
        -- An ephemeral port is used again after a minute at the soonest; clocks of two nodes may differ by seconds.
        AND abs(client.start_ns - server.start_ns) < 30_000_000_000
    QUALIFY row_number() OVER (
        PARTITION BY server.node, server.connection_id, server.ordinal, server.process_uid, server.start_ns
        ORDER BY client.ordinal = server.ordinal DESC, abs(client.start_ns - server.start_ns)
    ) = 1
),
relay AS (
    SELECT server.node, server.connection_id, server.ordinal, server.start_ns, client.connection_id AS onward_connection_id,
        client.ordinal AS onward_ordinal, client.start_ns AS onward_start_ns
    FROM server
    JOIN client ON client.process_uid = server.process_uid AND client.trace_id = server.trace_id AND client.path = server.path
        AND client.start_ns BETWEEN server.start_ns AND server.seen_until_ns
    UNION
    SELECT server.node, server.connection_id, server.ordinal, server.start_ns, client.connection_id, client.ordinal, client.start_ns
    FROM server
    JOIN client ON client.process_uid = server.process_uid AND client.response_id = server.response_id
        AND client.start_ns BETWEEN server.start_ns AND server.seen_until_ns
),
-- From what a proxy sent on, back to who had sent it to the proxy, proxy by proxy.
way AS (
    SELECT relay.node, onward_connection_id, onward_ordinal, onward_start_ns, paired.caller, 1 AS proxies
    FROM relay
    JOIN paired ON paired.node = relay.node AND paired.connection_id = relay.connection_id
        AND paired.ordinal = relay.ordinal AND paired.start_ns = relay.start_ns
    UNION ALL
    SELECT way.node, way.onward_connection_id, way.onward_ordinal, way.onward_start_ns, paired.caller, way.proxies + 1
    FROM way
    JOIN relay ON relay.node = way.caller.node AND relay.onward_connection_id = way.caller.connection_id
        AND relay.onward_ordinal = way.caller.ordinal AND relay.onward_start_ns = way.caller.start_ns
    JOIN paired ON paired.node = relay.node AND paired.connection_id = relay.connection_id
        AND paired.ordinal = relay.ordinal AND paired.start_ns = relay.start_ns
    WHERE way.proxies < 8
),
outermost AS (
    SELECT node, onward_connection_id, onward_ordinal, onward_start_ns, max(proxies) AS proxies,
        max_by(caller, proxies) FILTER (caller IS NOT NULL) AS caller
    FROM way
    GROUP BY ALL
),
alone AS (
    SELECT client.*
    FROM client
    ANTI JOIN paired
        ON paired.caller.node = client.node
        AND paired.caller.process_uid IS NOT DISTINCT FROM client.process_uid
        AND paired.caller.connection_id IS NOT DISTINCT FROM client.connection_id
        AND paired.caller.ordinal IS NOT DISTINCT FROM client.ordinal
        AND paired.caller.start_ns = client.start_ns
),
-- What a proxy passed on to a server that was not watched stands for the request in the proxy's place.
ends AS (
    SELECT * FROM paired
    ANTI JOIN relay ON relay.node = paired.node AND relay.connection_id = paired.connection_id
        AND relay.ordinal = paired.ordinal AND relay.start_ns = paired.start_ns
    UNION ALL BY NAME
    SELECT
        *,
        {
            'start_ns': start_ns, 'end_ns': seen_until_ns, 'first_body_ns': first_body_ns, 'node': node,
            'process_uid': process_uid, 'connection_id': connection_id, 'ordinal': ordinal, 'retransmits': retransmits
        } AS caller
    FROM alone
),
every AS (
    SELECT ends.* EXCLUDE (caller), coalesce(outermost.caller, ends.caller) AS caller, coalesce(outermost.proxies, 0) AS proxies,
        ends.caller.node = ends.node AND ends.caller.ordinal = ends.ordinal AS same_place
    FROM ends
    LEFT JOIN outermost ON outermost.node = ends.caller.node AND outermost.onward_connection_id = ends.caller.connection_id
        AND outermost.onward_ordinal = ends.caller.ordinal AND outermost.onward_start_ns = ends.caller.start_ns
)
SELECT
    concat_ws('/', every.node, side, coalesce(every.process_uid, ''), connection_id, ordinal, every.start_ns) AS request_uid,
    start_ns,
    seen_until_ns AS end_ns,
    end_ns IS NULL AS open,
    every.node AS node,
    coalesce(every.pod_uid, process.pod_uid) AS pod_uid,
    process.pod AS pod,
    process.namespace AS namespace,
    every.process_uid AS process_uid,
    side,
    method,
    path,
    status,
    grpc_status,
    protocol,
    -- An engine rarely says which model a request is of; what its pod or its address serves is told elsewhere. A scrape has none.
    coalesce(engine.model, CASE WHEN method IS DISTINCT FROM 'GET' THEN coalesce(in_pod.model, at_address.model) END) AS model,
    replace(trace_id::VARCHAR, '-', '') AS trace_id,
    request_id,
    response_id,
    first_body_ns - start_ns AS ttft_ns,
    caller.first_body_ns - caller.start_ns AS client_ttft_ns,
    -- A chunk of a stream is a token or a few: time per output token is exact only once the engine says how many there were.
    (last_chunk_ns - first_body_ns) // NULLIF(chunks - 1, 0) AS tpot_ns,
    seen_until_ns - start_ns AS duration_ns,
    request_end_ns,
    response_start_ns,
    first_body_ns,
    last_chunk_ns,
    chunks,
    longest_gap_ns,
    request_bytes,
    response_bytes AS bytes,
    coalesce(every.retransmits, 0) + coalesce(CASE WHEN side = 'server' THEN caller.retransmits END, 0) AS retransmits,
    connection_id,
    ordinal,
    local_address,
    local_port,
    peer_address,
    peer_port,
    caller.node AS client_node,
    caller.process_uid AS client_process_uid,
    caller.connection_id AS client_connection_id,
    caller.ordinal AS client_ordinal,
    caller.start_ns AS client_start_ns,
    caller.end_ns AS client_end_ns,
    caller.first_body_ns AS client_first_body_ns,
    proxies,
    engine.attempt_uid,
    engine.internal_id,
    engine.prompt_tokens,
    engine.cached_tokens,
    engine.output_tokens,
    engine.queue_ns,
    engine.prefill_ns,
    engine.decode_ns,
    engine.preemptions,
    -- The share of the wall time that has a name, as `explain.py` cuts it: all of it where one request of an engine is known,
    -- else what came before the server had the request and after the answer. The client's part counts on one node's clock.
    CASE WHEN engine.engine_requests = 1 THEN 1.0 ELSE
        1.0 - greatest(seen_until_ns - greatest(coalesce(CASE WHEN caller.node = every.node THEN caller.start_ns END, start_ns), start_ns,
            coalesce(request_end_ns, start_ns)), 0)
        / nullif(greatest(coalesce(CASE WHEN caller.node = every.node THEN caller.end_ns END, seen_until_ns), seen_until_ns)
            - coalesce(CASE WHEN caller.node = every.node THEN caller.start_ns END, start_ns), 0)
    END AS coverage_ratio,
    ended_by,
    reset_code,
    CASE
        WHEN open_at_start OR parse IN ('partial', 'none') THEN 'derived'
        -- Two nodes may have begun to number a connection's exchanges at different ones: then only an id is proof.
        WHEN side = 'server' AND caller IS NOT NULL AND trace_id IS NULL AND request_id IS NULL AND NOT same_place
            AND coalesce(protocol, '') NOT IN ('http/2', 'grpc') THEN 'derived'
        ELSE 'exact'
    END AS evidence
FROM every
LEFT JOIN (
    SELECT process_uid, last(pod_uid ORDER BY start_ns) AS pod_uid, last(pod ORDER BY start_ns) AS pod,
        last(namespace ORDER BY start_ns) AS namespace
    FROM process
    GROUP BY process_uid
) AS process
    ON process.process_uid = every.process_uid
LEFT JOIN served_model AS in_pod ON side = 'server' AND in_pod.pod_uid = coalesce(every.pod_uid, process.pod_uid)
LEFT JOIN served_model AS at_address ON side = 'server' AND at_address.address = concat(local_address, ':', local_port)
    AND coalesce(at_address.node, every.node) = every.node
LEFT JOIN (
    -- n samples or several prompts are one exchange: their tokens are added up, their phases are from first to last.
    SELECT
        exchange.value AS exchange_uid,
        any_value(exchange.attempt_uid) AS attempt_uid,
        count(DISTINCT (request_engine.process_uid, internal_id)) AS engine_requests,
        any_value(model) AS model,
        min(internal_id) AS internal_id,
        sum(prompt_tokens)::BIGINT AS prompt_tokens,
        sum(cached_tokens)::BIGINT AS cached_tokens,
        sum(output_tokens)::BIGINT AS output_tokens,
        max(queue_ns) AS queue_ns,
        max(prefill_ns) AS prefill_ns,
        max(decode_ns) AS decode_ns,
        sum(preemptions)::BIGINT AS preemptions
    FROM request_engine
    JOIN alias AS exchange ON exchange.kind = 'exchange' AND exchange.attempt_uid = request_engine.attempt_uid
    GROUP BY exchange.value
) AS engine
    ON engine.exchange_uid = concat_ws('/', every.node, every.connection_id, every.ordinal, every.side)
