-- One phase of a request beside its peers: requests of the same path and model that began within ten minutes of it.
-- parameters: request_uid
WITH asked AS (SELECT * FROM request WHERE request_uid = $request_uid),
peer AS (
    SELECT request.*
    FROM request, asked
    WHERE request.path IS NOT DISTINCT FROM asked.path AND request.model IS NOT DISTINCT FROM asked.model
        AND request.request_uid <> asked.request_uid AND request.status = 200
        AND request.start_ns BETWEEN asked.start_ns - 600_000_000_000 AND asked.start_ns + 600_000_000_000
),
measured AS (
    SELECT 'own' AS who, duration_ns, ttft_ns, queue_ns, prefill_ns, decode_ns, prompt_tokens, output_tokens FROM asked
    UNION ALL
    SELECT 'peer', duration_ns, ttft_ns, queue_ns, prefill_ns, decode_ns, prompt_tokens, output_tokens FROM peer
),
long AS (
    UNPIVOT measured ON duration_ns, ttft_ns, queue_ns, prefill_ns, decode_ns, prompt_tokens, output_tokens
    INTO NAME measure VALUE amount
)
SELECT
    measure,
    any_value(amount) FILTER (WHERE who = 'own') AS own,
    quantile_cont(amount, 0.5) FILTER (WHERE who = 'peer') AS peers_p50,
    quantile_cont(amount, 0.95) FILTER (WHERE who = 'peer') AS peers_p95,
    count(*) FILTER (WHERE who = 'peer') AS peers
FROM long
GROUP BY measure
ORDER BY measure
