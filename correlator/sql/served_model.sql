-- The model that is served in one pod, or at one address: the one that engines' metrics name there, else the cluster; where they
-- name several, none. An address that every node has (127.0.0.1) is told with its node.
-- parts: engine_sample 600 s
WITH scraped AS (
    SELECT pod_uid, target, model, coalesce(node, (SELECT any_value(node) FROM node HAVING count(DISTINCT node) = 1)) AS node,
        starts_with(target, '127.') OR starts_with(target, '[::1]') OR starts_with(target, 'localhost') AS everywhere
    FROM (SELECT DISTINCT pod_uid, node, split_part(target, '/', 1) AS target, model FROM engine_sample WHERE model IS NOT NULL)
),
of_engine AS (
    SELECT pod_uid, any_value(model) AS model FROM scraped WHERE pod_uid IS NOT NULL GROUP BY pod_uid HAVING count(DISTINCT model) = 1
),
of_cluster AS (
    SELECT pod_uid, arg_max(model, time_ns) AS model FROM pod WHERE pod_uid IS NOT NULL AND model IS NOT NULL GROUP BY pod_uid
)
SELECT pod_uid, NULL::VARCHAR AS node, NULL::VARCHAR AS address, coalesce(of_engine.model, of_cluster.model) AS model
FROM of_engine FULL JOIN of_cluster USING (pod_uid)
UNION ALL
SELECT NULL, if(everywhere, node, NULL), target, any_value(model)
FROM scraped
WHERE NOT everywhere OR node IS NOT NULL
GROUP BY ALL
HAVING count(DISTINCT model) = 1
