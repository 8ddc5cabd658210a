-- What each of several requests was given of the executions of one name, as `request_kernel` says it of one. `requests` are
-- values of request_uid of the view `request`, a space between them, all of them begun in the window.
-- parameters: requests, since_ns, until_ns
-- within: share 60 s, launch 61 s, gpu_kernel 120 s
WITH asked AS (
    SELECT request_uid, attempt_uid, internal_id, response_id
    FROM request
    WHERE start_ns >= $since_ns AND start_ns < $until_ns AND request_uid IN (SELECT unnest(string_split($requests::VARCHAR, ' ')))
),
owned AS (
    SELECT request_uid, unnest([internal_id, response_id]) AS owner FROM asked
    UNION
    -- A prefill and a decode engine know it by an id each.
    SELECT asked.request_uid, alias.value
    FROM asked
    JOIN alias USING (attempt_uid)
    WHERE alias.kind IN ('internal_id', 'external_id', 'response_id')
),
own AS MATERIALIZED (
    SELECT request_uid, process_uid, step_ordinal, gpu_uuid, kernel_class AS shared_by, sum(share_ns)::BIGINT AS share_ns
    FROM share
    JOIN owned USING (owner)
    WHERE time_ns >= $since_ns - 1000000000 AND time_ns < $until_ns + 60000000000
    GROUP BY ALL
),
ran AS (
    FROM kernels_of_steps((SELECT list(DISTINCT process_uid) FROM own), $since_ns::BIGINT - 1000000000, $until_ns::BIGINT + 60000000000)
),
given AS (
    SELECT own.request_uid, coalesce(ran.kernel_class, own.shared_by) AS kernel_class, ran.name, ran.executions, own.share_ns,
        coalesce(ran.ran_ns / sum(ran.ran_ns) OVER (
            PARTITION BY own.request_uid, own.process_uid, own.step_ordinal, own.gpu_uuid, own.shared_by), 1) AS part
    FROM own
    LEFT JOIN ran ON ran.engine = own.process_uid AND ran.step_ordinal = own.step_ordinal AND ran.gpu_uuid = own.gpu_uuid
        AND ran.shared_by = own.shared_by
)
SELECT request_uid, kernel_class, name, sum(share_ns * part) AS share_ns, sum(executions)::BIGINT AS executions
FROM given
GROUP BY request_uid, kernel_class, name
