-- One kind of trouble of one GPU or MIG instance in a window: how often, from when to when, and how much in all (ns of throttling,
-- NULL where a reading only names the reason; errors; NULL for an Xid). A reading up to a minute before the window is compared with.
-- parameters: since_ns, until_ns
SELECT node, gpu_uuid, gpu_instance, any_value(index) AS index, kind, what, count(*) AS times,
    CASE WHEN kind <> 'xid' THEN sum(amount) END AS amount, min(start_ns) AS first_ns, max(end_ns) AS last_ns, bool_or(simulated) AS simulated
FROM gpu_marks($since_ns - 60_000_000_000, $until_ns, [])
WHERE start_ns < $until_ns AND end_ns >= $since_ns
GROUP BY node, gpu_uuid, gpu_instance, kind, what
ORDER BY kind = 'throttled', node, index, gpu_uuid, gpu_instance, last_ns DESC
