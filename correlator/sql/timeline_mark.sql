-- One time at which a GPU was held back or failed: between two readings its throttled time grew, its Xid changed, its error count grew;
-- or a reading named a reason why its clock was down, which stands until the next one.
-- It happened in (start_ns, end_ns]. `amount` is in ns for throttling, the code for an Xid, a count for errors.
-- parameters: since_ns, until_ns, around_ns, nodes
WITH reading AS (
    SELECT node, gpu_uuid, gpu_instance, index, metric, part, value, time_ns, simulated,
        lag(time_ns) OVER same AS before_ns, lag(value) OVER same AS before, lead(time_ns) OVER same AS after_ns
    FROM gpu_sample
    WHERE time_ns >= $since_ns - $around_ns AND time_ns < $until_ns + $around_ns
        AND metric IN ('warpline.gpu.throttled', 'warpline.gpu.clock.reasons', 'warpline.gpu.xid.last', 'hw.errors')
        AND (len($nodes::VARCHAR[]) = 0 OR node IN (SELECT unnest($nodes::VARCHAR[])))
    WINDOW same AS (PARTITION BY node, gpu_uuid, gpu_instance, metric, part ORDER BY time_ns)
), mark AS (
    SELECT *, 'throttled' AS kind, part AS what, before_ns AS start_ns, time_ns AS end_ns, (value - before) * 1e9 AS amount
    FROM reading WHERE metric = 'warpline.gpu.throttled' AND value > before
    UNION ALL
    SELECT *, 'xid', 'Xid ' || value::BIGINT, before_ns, time_ns, value FROM reading
    WHERE metric = 'warpline.gpu.xid.last' AND value <> before AND value > 0
    UNION ALL
    SELECT *, 'errors', replace(part, '_', ' '), before_ns, time_ns, value - before FROM reading
    WHERE metric = 'hw.errors' AND value > before
    UNION ALL
    -- NVML's nvmlClocksEventReasons, of which being idle (1) and clocks that somebody set (2) are no trouble.
    SELECT *, 'throttled', concat_ws(', ', CASE WHEN value::BIGINT & 4 > 0 THEN 'power cap' END,
        CASE WHEN value::BIGINT & 8 > 0 THEN 'hardware slowdown' END, CASE WHEN value::BIGINT & 32 > 0 THEN 'thermal' END,
        CASE WHEN value::BIGINT & 64 > 0 THEN 'hardware thermal' END, CASE WHEN value::BIGINT & 128 > 0 THEN 'power brake' END),
        time_ns, coalesce(after_ns, time_ns), NULL FROM reading
    WHERE metric = 'warpline.gpu.clock.reasons' AND value::BIGINT & 236 > 0
)
SELECT node, gpu_uuid, gpu_instance, index, kind, what, start_ns, end_ns, amount, simulated
FROM mark
WHERE start_ns < $until_ns AND end_ns >= $since_ns
ORDER BY node, gpu_uuid, gpu_instance, kind, start_ns
LIMIT 2000
