-- Time that one other request cost a request, or that it cost another: in the queue, by prefill, by preemption.
-- parameters: request, since_ns, until_ns
-- within: alias 3600 s, blame 5 s
WITH subject AS (FROM internal_ids($request::VARCHAR)),
sided AS (
    SELECT 'delayed by' AS role, culprit AS other, kind, delay_ns, evidence
    FROM blame
    WHERE victim IN (SELECT value FROM subject) AND start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns
    UNION ALL
    SELECT 'delayed', victim, kind, delay_ns, evidence
    FROM blame
    WHERE culprit IN (SELECT value FROM subject) AND start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns
)
SELECT role, other, kind, sum(delay_ns)::BIGINT AS delay_ns, max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence
FROM sided
GROUP BY ALL
ORDER BY delay_ns DESC
