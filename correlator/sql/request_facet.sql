-- One value by which requests can be filtered, and how many have it.
-- parameters: since_ns, until_ns
-- within: request 0..3600 s
SELECT facet, value, count(*) AS requests
FROM (
    SELECT unnest([{'facet': 'path', 'value': path}, {'facet': 'pod', 'value': coalesce(pod, node)}], recursive := true)
    FROM request
    WHERE start_ns >= $since_ns AND start_ns < $until_ns
)
WHERE value IS NOT NULL
GROUP BY facet, value
ORDER BY facet, requests DESC, value
LIMIT 400
