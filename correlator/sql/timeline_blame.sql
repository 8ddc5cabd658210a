-- Time that a request lost to another, or cost it, by kind: `role` says which the request was.
-- parameters: subjects, since_ns, until_ns
-- within: blame 60 s
SELECT role, other, kind, sum(delay_ns)::BIGINT AS delay_ns, arg_max(evidence, delay_ns) AS evidence
FROM (
    SELECT 'delayed by' AS role, culprit AS other, kind, delay_ns, evidence FROM blame
    WHERE victim IN (SELECT unnest($subjects::VARCHAR[])) AND start_ns >= $since_ns - 60000000000 AND start_ns < $until_ns + 60000000000
    UNION ALL
    SELECT 'delayed', victim, kind, delay_ns, evidence FROM blame
    WHERE culprit IN (SELECT unnest($subjects::VARCHAR[])) AND start_ns >= $since_ns - 60000000000 AND start_ns < $until_ns + 60000000000
)
GROUP BY role, other, kind
ORDER BY delay_ns DESC
LIMIT 200
