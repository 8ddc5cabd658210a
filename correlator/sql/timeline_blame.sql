-- Time that a request lost to another, or cost it, by kind: `role` says which the request was.
-- parameters: subjects
SELECT role, other, kind, sum(delay_ns)::BIGINT AS delay_ns, arg_max(evidence, delay_ns) AS evidence
FROM (
    SELECT 'delayed by' AS role, culprit AS other, kind, delay_ns, evidence FROM blame WHERE victim IN (SELECT unnest($subjects::VARCHAR[]))
    UNION ALL
    SELECT 'delayed', victim, kind, delay_ns, evidence FROM blame WHERE culprit IN (SELECT unnest($subjects::VARCHAR[]))
)
GROUP BY role, other, kind
ORDER BY delay_ns DESC
LIMIT 200
