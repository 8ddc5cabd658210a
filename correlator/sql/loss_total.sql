-- Everything that is known to be missing for one reason at one source of one node, summed.
SELECT
    node,
    source,
    reason,
    sum(lost)::BIGINT AS lost,
    bool_or(coalesce(lower_bound, false)) AS lower_bound,
    min(start_ns) AS start_ns,
    max(coalesce(end_ns, start_ns)) AS end_ns
FROM loss
GROUP BY node, source, reason
