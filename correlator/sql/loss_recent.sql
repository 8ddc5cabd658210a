-- What was lost in a window for one reason at one source of one node.
-- parameters: since_ns, until_ns
SELECT node, source, reason, sum(lost)::BIGINT AS lost, bool_or(coalesce(lower_bound, false)) AS lower_bound,
    min(start_ns) AS start_ns, max(coalesce(end_ns, start_ns)) AS end_ns
FROM loss
WHERE coalesce(end_ns, start_ns) >= $since_ns AND start_ns < $until_ns
GROUP BY node, source, reason
ORDER BY lost DESC
