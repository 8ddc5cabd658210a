-- What one pod was given of one GPU in a window: its part of the kernel time, of the energy, and of the cost (by busy time).
-- parameters: since_ns, until_ns
SELECT share.node, share.gpu_uuid, coalesce(process.pod, share.process_uid, 'unknown') AS pod, share.owner LIKE '\_\_%' ESCAPE '\' AS bucket,
    sum(share.share_ns)::BIGINT AS share_ns, sum(share.busy_ns)::BIGINT AS busy_ns, sum(share.share_j) AS share_j,
    sum(share.busy_ns) / 3.6e12 * coalesce(any_value(gpu_price.per_hour), (SELECT any_value(per_hour) FROM gpu_price WHERE gpu_uuid IS NULL)) AS cost,
    count(DISTINCT share.owner) AS requests
FROM share
LEFT JOIN (SELECT process_uid, arg_max(pod, start_ns) AS pod FROM process GROUP BY process_uid) AS process USING (process_uid)
LEFT JOIN gpu_price ON gpu_price.gpu_uuid = share.gpu_uuid
WHERE share.time_ns >= $since_ns AND share.time_ns < $until_ns
GROUP BY ALL
ORDER BY share_ns DESC
