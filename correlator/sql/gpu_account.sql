-- Where one GPU's time in a window went: to requests, to padding, dummy steps, overhead, to nobody known, or nowhere (idle).
-- The rows of a GPU sum to `watched_ns`, from the first to the last second of the window in which an execution on it or a
-- reading of it was seen, and their cost to that time's price. Idle is what no watched process used; where nothing is shared out
-- yet, what the processes used is unattributed, summed over them.
-- parameters: since_ns, until_ns
WITH used AS (
    SELECT node, gpu_uuid, CASE WHEN owner LIKE '\_\_%' ESCAPE '\' THEN trim(owner, '_') ELSE 'requests' END AS went_to,
        sum(busy_ns)::BIGINT AS time_ns, sum(share_ns)::BIGINT AS share_ns, sum(share_j) AS energy_j,
        count(DISTINCT owner) FILTER (owner NOT LIKE '\_\_%' ESCAPE '\') AS requests,
        max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence
    FROM share
    WHERE time_ns >= $since_ns AND time_ns < $until_ns
    GROUP BY ALL
),
-- Seconds of one process are one GPU's time only once: the span holds them all.
busy AS (
    SELECT node, gpu_uuid, greatest(min(start_ns), $since_ns) AS first_ns, least(max(end_ns), $until_ns) AS last_ns,
        sum(busy_ns) AS busy_ns, sum(kernel_ns)::BIGINT AS kernel_ns
    FROM gpu_busy
    WHERE end_ns > $since_ns AND start_ns < $until_ns
    GROUP BY ALL
),
read AS (
    SELECT gpu_uuid, min(time_ns) AS first_ns, max(time_ns) AS last_ns
    FROM gpu_sample
    WHERE time_ns >= $since_ns AND time_ns < $until_ns
    GROUP BY gpu_uuid
),
watched AS (
    SELECT busy.node, busy.gpu_uuid, greatest(busy.last_ns, read.last_ns) - least(busy.first_ns, read.first_ns) AS watched_ns,
        busy.busy_ns, busy.kernel_ns
    FROM busy
    LEFT JOIN read USING (gpu_uuid)
),
spent AS (
    FROM used
    UNION ALL
    SELECT node, gpu_uuid, 'unattributed', least(busy_ns, watched_ns)::BIGINT, kernel_ns, NULL, 0, 'unknown'
    FROM watched
    WHERE NOT EXISTS (FROM used WHERE used.gpu_uuid = watched.gpu_uuid AND used.node IS NOT DISTINCT FROM watched.node)
),
rows AS (
    SELECT node, gpu_uuid, went_to, time_ns, share_ns, energy_j, requests, evidence FROM spent
    UNION ALL
    SELECT node, gpu_uuid, 'idle', greatest(watched_ns - coalesce((SELECT sum(time_ns) FROM spent
        WHERE spent.gpu_uuid = watched.gpu_uuid AND spent.node IS NOT DISTINCT FROM watched.node), 0), 0)::BIGINT, 0, NULL, 0, 'derived'
    FROM watched
)
SELECT node, gpu_uuid, went_to, time_ns, sum(time_ns) OVER (PARTITION BY node, gpu_uuid)::BIGINT AS watched_ns, share_ns, energy_j,
    time_ns / 3.6e12 * coalesce(gpu_price.per_hour, (SELECT any_value(per_hour) FROM gpu_price WHERE gpu_uuid IS NULL)) AS cost,
    requests, evidence
FROM rows
LEFT JOIN gpu_price USING (gpu_uuid)
ORDER BY node, gpu_uuid, time_ns DESC
