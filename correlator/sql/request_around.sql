-- One thing that happened around a request and may have slowed it: another process on its GPU, throttling, retransmits, dropped
-- flows, a cold start, rows that are known to be missing. `amount` is in ns unless `kind` counts.
-- parameters: request, since_ns, until_ns
WITH subject AS (FROM internal_ids($request::VARCHAR)),
place AS (
    SELECT DISTINCT gpu_uuid, process_uid FROM share
    WHERE owner IN (SELECT value FROM subject) AND time_ns >= $since_ns AND time_ns < $until_ns
)
SELECT 'neighbour' AS kind, concat(share.gpu_uuid, ' ', share.process_uid) AS what, sum(busy_ns)::DOUBLE AS amount
FROM share
WHERE time_ns >= $since_ns AND time_ns < $until_ns AND gpu_uuid IN (SELECT gpu_uuid FROM place)
    AND process_uid NOT IN (SELECT process_uid FROM place WHERE process_uid IS NOT NULL)
GROUP BY share.gpu_uuid, share.process_uid
UNION ALL
SELECT 'throttled', concat(gpu_uuid, ' ', part), (max(value) - min(value)) * 1e9
FROM gpu_sample
WHERE metric = 'warpline.gpu.throttled' AND gpu_uuid IN (SELECT gpu_uuid FROM place)
    AND time_ns >= $since_ns - 5_000_000_000 AND time_ns < $until_ns + 5_000_000_000
GROUP BY gpu_uuid, part
HAVING max(value) > min(value)
UNION ALL
SELECT 'dropped_flows', concat(source_pod, ' → ', destination_pod, ': ', drop_reason), count(*)::DOUBLE
FROM flow
WHERE verdict = 'DROPPED' AND time_ns >= $since_ns AND time_ns < $until_ns
GROUP BY ALL
UNION ALL
SELECT 'lost_rows', concat(source, ': ', reason), sum(lost)::DOUBLE
FROM loss
WHERE start_ns < $until_ns AND coalesce(end_ns, start_ns) >= $since_ns
GROUP BY ALL
ORDER BY kind, amount DESC
