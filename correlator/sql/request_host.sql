-- For how long one thread of a process that served a request was kept from running: it could have run and no core was free, or it
-- waited for the disk. Of the threads of a process that launched kernels meanwhile the one that was kept longest, else of all of
-- its threads. To wait for a lock, a socket or a timer is what a server does: no row. Only times from `sched_threshold_us` on are
-- on record, so all of these are the least. A row of kind on_record says that the scheduler was watched then.
-- parameters: request, process, node, since_ns, until_ns
-- within: alias 3600 s, share 1 s, launch 0 s, off_cpu 60 s, off_cpu_total 2 s
WITH subject AS (FROM internal_ids($request::VARCHAR)),
place AS (
    SELECT process_uid FROM share
    WHERE owner IN (SELECT value FROM subject) AND time_ns >= $since_ns - 1_000_000_000 AND time_ns < $until_ns + 1_000_000_000
        AND process_uid IS NOT NULL
    UNION
    SELECT $process::VARCHAR
),
launching AS (
    SELECT DISTINCT process_uid, thread_id FROM launch
    WHERE start_ns >= $since_ns AND start_ns < $until_ns AND process_uid IN (SELECT process_uid FROM place) AND thread_id IS NOT NULL
),
away AS (
    -- What it waited for comes first, and the wait for a core, to which the wake-up led, at the end.
    SELECT process_uid, thread_id, unnest([
        {'kind': 'no_core', 'from_ns': end_ns - coalesce(runqueue_ns, 0), 'to_ns': end_ns},
        {'kind': if(reason IN ('disk', 'page_fault'), reason, NULL), 'from_ns': start_ns, 'to_ns': end_ns - coalesce(runqueue_ns, 0)}
    ], recursive := true)
    FROM off_cpu
    -- Times of another node are of another clock.
    WHERE node = $node::VARCHAR AND start_ns >= $since_ns - 60_000_000_000 AND start_ns < $until_ns AND end_ns > $since_ns
        AND process_uid IN (SELECT process_uid FROM place)
),
kept AS (
    SELECT process_uid, thread_id, kind, launching.thread_id IS NOT NULL AS launches, count(*) AS times, min(from_ns) AS at_ns,
        sum(least(to_ns, $until_ns) - greatest(from_ns, $since_ns))::BIGINT AS kept_ns
    FROM away
    LEFT JOIN launching USING (process_uid, thread_id)
    WHERE kind IS NOT NULL AND to_ns > $since_ns AND from_ns < $until_ns AND to_ns > from_ns
        AND (launching.thread_id IS NOT NULL OR process_uid NOT IN (SELECT process_uid FROM launching))
    GROUP BY ALL
),
longest AS (
    FROM kept QUALIFY row_number() OVER (PARTITION BY process_uid, kind ORDER BY kept_ns DESC, thread_id) = 1
)
SELECT longest.*, concat(coalesce(who.executable, 'a process'), ' pid ', split_part(process_uid, ':', -1)) AS what
FROM longest
LEFT JOIN (SELECT process_uid, any_value(executable) AS executable FROM process GROUP BY ALL) AS who USING (process_uid)
UNION ALL
SELECT process_uid, NULL, 'on_record', false, sum(intervals)::BIGINT, min(start_ns), 0, ''
FROM off_cpu_total
WHERE node = $node::VARCHAR AND start_ns >= $since_ns - 2_000_000_000 AND start_ns < $until_ns + 2_000_000_000
    AND process_uid IN (SELECT process_uid FROM place)
GROUP BY process_uid
ORDER BY kept_ns DESC, process_uid, kind
