-- One request as one proxy of the mesh saw it, from its access log or from its OTLP span (Envoy's and Istio's, of which each
-- hop has two: server towards the caller, client towards the next). `request_key` is x-request-id with the digit masked in
-- which Envoy keeps its sampling decision: equal for all hops of one request, also of its retries.
--
-- A proxy that both logs and traces a request is there twice, told apart by `told_by`: choose one before counting.
WITH traced AS (
    SELECT
        *,
        attributes ->> 'guid:x-request-id' AS header_id
    FROM span
    WHERE contains(attributes, '"guid:x-request-id"')
),
hops AS (
    SELECT
        'log' AS told_by, NULL AS side, start_ns, end_ns, node, proxy, method, path, status, response_flags, request_id,
        trace_id, attempts, upstream_ns, upstream_cluster, upstream_address, downstream_address, clock_error_ns
    FROM hop
    UNION ALL BY NAME
    SELECT
        'span' AS told_by,
        kind AS side,
        start_ns,
        end_ns,
        node,
        -- sidecar~<address>~<pod>.<namespace>~<domain>
        coalesce(
            regexp_replace(nullif(split_part(attributes ->> 'node_id', '~', 3), ''), '^(.*)\.([^.]+)$', '\2/\1'), pod, service
        ) AS proxy,
        coalesce(method, attributes ->> 'http.method') AS method,
        regexp_replace(
            regexp_replace(coalesce(path, attributes ->> 'http.url'), '^[a-z]+://[^/]*', ''), '[?#].*$', ''
        ) AS path,
        coalesce(http_status, try_cast(attributes ->> 'http.status_code' AS BIGINT)) AS status,
        nullif(attributes ->> 'response_flags', '-') AS response_flags,
        header_id AS request_id,
        trace_id,
        -- Envoy numbers the attempts of its client spans that are retries, from 1.
        CASE WHEN kind = 'client' THEN 1 + coalesce(try_cast(attributes ->> 'retry.count' AS BIGINT), 0) END AS attempts,
        NULL::BIGINT AS upstream_ns,
        coalesce(attributes ->> 'upstream_cluster.name', attributes ->> 'upstream_cluster') AS upstream_cluster,
        attributes ->> 'upstream_address' AS upstream_address,
        attributes ->> 'peer.address' AS downstream_address,
        0::BIGINT AS clock_error_ns
    FROM traced
)
SELECT
    *,
    regexp_replace(lower(request_id), '^([0-9a-f]{8}-[0-9a-f]{4}-)[0-9a-f]([0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})$', '\1.\2')
        AS request_key
FROM hops
