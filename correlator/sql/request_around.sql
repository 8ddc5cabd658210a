-- One thing that happened around a request and may have slowed it: to its GPUs, its engine, its node, its packets, the rows about
-- it. `amount` is what `kind` counts, times and rates in ns and bytes a second; `whole` is what it is a part of, `at_ns` when it
-- began. since_ns and until_ns are the request's own; each kind looks as far beyond them as its readings lie apart. What came
-- after the request is a row apart from what came before; a pod that started has its `address` and `node`.
-- parameters: request, node, since_ns, until_ns
-- within: alias 3600 s, share 1 s, gpu_sample 30 s, engine_sample 10 s, clock_pair 60 s, engine_event 0 s, http_exchange 60 s
-- within: flow 5 s, gpu_busy 60 s
WITH subject AS (FROM internal_ids($request::VARCHAR)),
place AS (
    SELECT DISTINCT gpu_uuid, process_uid FROM share
    WHERE owner IN (SELECT value FROM subject) AND time_ns >= $since_ns - 1_000_000_000 AND time_ns < $until_ns + 1_000_000_000
),
reading AS (
    SELECT gpu_uuid, metric, part, time_ns, value, any_value("index") OVER (PARTITION BY gpu_uuid) AS number,
        gpu_uuid IN (SELECT gpu_uuid FROM place) AS own
    FROM gpu_sample
    WHERE node = $node::VARCHAR AND time_ns >= $since_ns - 30_000_000_000 AND time_ns < $until_ns + 30_000_000_000
        AND metric IN ('warpline.gpu.throttled', 'warpline.gpu.xid.last', 'hw.errors', 'hw.gpu.memory.usage', 'hw.gpu.memory.limit',
            'warpline.gpu.memory.free', 'warpline.gpu.pipe.active', 'warpline.gpu.pcie.throughput', 'warpline.gpu.nvlink.throughput')
),
-- Where it is not known on which GPUs it ran, all of its node are looked at, and called so.
gpu_reading AS (
    SELECT *, concat(if(own, 'its ', ''), coalesce('GPU ' || number, gpu_uuid), if(own, '', ' of its node')) AS what,
        value - lag(value) OVER same AS more, lag(time_ns) OVER same AS before_ns,
        time_ns BETWEEN $since_ns - 5_000_000_000 AND $until_ns + 5_000_000_000 AS near
    FROM reading
    WHERE own OR NOT EXISTS (FROM place)
    WINDOW same AS (PARTITION BY gpu_uuid, metric, part ORDER BY time_ns)
),
engine_reading AS (
    SELECT target, metric, statistic, value,
        value - lag(value) OVER (PARTITION BY target, engine_index, metric, statistic ORDER BY time_ns) AS more
    FROM engine_sample
    WHERE time_ns >= $since_ns - 10_000_000_000 AND time_ns < $until_ns + 10_000_000_000 AND part IS NULL
        AND coalesce(node, $node::VARCHAR) = $node::VARCHAR
        AND metric IN ('requests.waiting', 'kv.used', 'kv.transfer', 'kv.transfer.bytes')
),
member AS (
    SELECT arg_max(pod_ip, time_ns) AS pod_ip, arg_max(role, time_ns) AS role FROM pod
    WHERE time_ns < $until_ns + 10_000_000_000 AND time_ns >= $since_ns - 86_400_000_000_000
    GROUP BY pod_uid
),
engine AS (
    SELECT concat(target, ' (' || any_value(role) || ')') AS what, any_value(role) IS NOT NULL AS pooled,
        max(value) FILTER (metric = 'requests.waiting' AND statistic = 'value') AS waiting,
        max(value) FILTER (metric = 'kv.used' AND statistic = 'value') AS kv_ratio,
        sum(more) FILTER (metric = 'kv.transfer.bytes' AND statistic = 'sum' AND more > 0) AS kv_bytes,
        sum(more) FILTER (metric = 'kv.transfer' AND statistic = 'sum' AND more > 0) AS kv_s
    FROM engine_reading
    LEFT JOIN member ON member.pod_ip = regexp_replace(target, '^\[|\]?:[0-9]+(/.*)?$', '', 'g')
    GROUP BY target
),
clock AS (
    SELECT time_ns - lag(time_ns) OVER pair AS gap_ns, lag(time_ns) OVER pair AS before_ns, time_ns,
        realtime_ns - monotonic_ns - lag(realtime_ns - monotonic_ns) OVER pair AS stepped_ns
    FROM clock_pair
    WHERE node = $node::VARCHAR AND time_ns >= $since_ns - 60_000_000_000 AND time_ns < $until_ns + 60_000_000_000
    WINDOW pair AS (PARTITION BY boot_id ORDER BY time_ns)
),
starting AS (
    SELECT concat_ws('/', born.namespace, born.pod) AS what, born.address, born.node, born.created_ns, life.ready_ns, image.pulling_ns,
        image.pulled_ns
    FROM (
        SELECT pod_uid, any_value(namespace) AS namespace, any_value(pod) AS pod, min(created_ns) AS created_ns,
            arg_max(pod_ip, time_ns) AS address, arg_max(node, time_ns) AS node,
            arg_max(phase, time_ns) FILTER (time_ns < $until_ns) AS phase
        FROM pod WHERE created_ns >= $since_ns - 3_600_000_000_000 AND created_ns < $until_ns GROUP BY pod_uid
    ) AS born
    LEFT JOIN (
        SELECT pod_uid, min(time_ns) AS ready_ns FROM container_state
        WHERE kind = 'ready' AND time_ns >= $since_ns - 3_600_000_000_000 AND time_ns < $until_ns + 3_600_000_000_000 GROUP BY pod_uid
    ) AS life USING (pod_uid)
    LEFT JOIN (
        SELECT object_uid AS pod_uid, min(time_ns) FILTER (reason = 'Pulling') AS pulling_ns,
            max(coalesce(start_ns_of_series, time_ns)) FILTER (reason = 'Pulled') AS pulled_ns
        FROM cluster_event
        WHERE kind = 'Pod' AND time_ns >= $since_ns - 3_600_000_000_000 AND time_ns < $until_ns + 3_600_000_000_000 GROUP BY object_uid
    ) AS image USING (pod_uid)
    WHERE coalesce(life.ready_ns, if(born.phase = 'Pending', $until_ns, 0)) >= $since_ns - 60_000_000_000
),
-- The last one on record may have no end there: then it is taken to last as long as the request.
preemption AS (
    SELECT kind, time_ns, lead(time_ns) OVER (PARTITION BY process_uid, internal_id ORDER BY time_ns) AS next_ns
    FROM engine_event
    WHERE internal_id IN (SELECT value FROM subject) AND time_ns >= $since_ns AND time_ns < $until_ns
),
happened AS (
SELECT 'neighbour' AS kind, coalesce('pod ' || coalesce(any_value(who.namespace) || '/', '') || any_value(who.pod),
        concat(coalesce(any_value(who.executable), 'a process'), ' pid ', split_part(busy.process_uid, ':', -1))) AS what,
    -- A piece of the other's time is long, and counts by how much of it lies beside the request.
    sum(busy.busy_ns * (least(busy.end_ns, $until_ns) - greatest(busy.start_ns, $since_ns)) / (busy.end_ns - busy.start_ns)) AS amount,
    ($until_ns - $since_ns)::DOUBLE AS whole, min(busy.start_ns) AS at_ns
FROM gpu_busy AS busy
LEFT JOIN (SELECT process_uid, any_value(executable) AS executable, any_value(namespace) AS namespace, any_value(pod) AS pod
    FROM process GROUP BY ALL) AS who USING (process_uid)
WHERE busy.start_ns >= $since_ns - 60_000_000_000 AND busy.start_ns < $until_ns AND busy.end_ns > $since_ns
    AND busy.gpu_uuid IN (SELECT gpu_uuid FROM place) AND busy.process_uid NOT IN (SELECT process_uid FROM place WHERE process_uid IS NOT NULL)
GROUP BY busy.process_uid
UNION ALL
-- Of the time throttled between two readings as much lies beside the request as of the time between them.
SELECT 'throttled', concat(what, ' was throttled (', replace(part, '_', ' '), ')'),
    sum(least(more * 1e9, time_ns - before_ns) * greatest(least(time_ns, $until_ns) - greatest(before_ns, $since_ns), 0) / (time_ns - before_ns)),
    sum(more) * 1e9, min(before_ns)
FROM gpu_reading
WHERE metric = 'warpline.gpu.throttled' AND more > 0 AND time_ns > greatest(before_ns, $since_ns - 5_000_000_000)
    AND before_ns < $until_ns + 5_000_000_000
GROUP BY what, part
UNION ALL
-- The code is sticky: only its change is news.
SELECT 'xid', what, value, NULL, time_ns FROM gpu_reading WHERE metric = 'warpline.gpu.xid.last' AND more <> 0 AND value <> 0
UNION ALL
SELECT 'gpu_errors', concat(what, ' (', replace(part, '_', ' '), ')'), sum(more), NULL, min(time_ns)
FROM gpu_reading WHERE metric = 'hw.errors' AND more > 0 GROUP BY what, part, time_ns >= $until_ns
UNION ALL
SELECT 'gpu_memory', what, min(free), NULL, NULL
FROM (
    SELECT what, time_ns, any_value(value) FILTER (metric = 'hw.gpu.memory.usage') AS used, any_value(value) FILTER (metric = 'hw.gpu.memory.limit') AS most,
        any_value(value) FILTER (metric = 'warpline.gpu.memory.free') AS left_bytes,
        coalesce(left_bytes, most - used) / coalesce(most, used + left_bytes) AS free
    FROM gpu_reading WHERE near AND part IS NULL GROUP BY what, time_ns
)
GROUP BY what HAVING min(free) < 0.02
UNION ALL
-- A model that lies in the GPU's own memory moves next to nothing from the host.
SELECT 'interconnect', concat(what, if(part = 'receive', ' received', ' sent'), if(metric LIKE '%pcie%', ' over PCIe', ' over NVLink')), avg(value), NULL, NULL
FROM gpu_reading WHERE metric LIKE '%.throughput' AND near AND part IN ('transmit', 'receive')
GROUP BY what, metric, part HAVING avg(value) > if(metric LIKE '%pcie%', 5e9, 1e11)
UNION ALL
SELECT 'waiting', what, waiting, NULL, NULL
FROM engine
WHERE waiting >= 5 OR (pooled AND waiting IS NOT NULL AND EXISTS (FROM engine AS other WHERE other.waiting >= 5))
UNION ALL
-- A GPU that is full, or one that idles while requests wait for it.
SELECT 'gpu_active', what, avg(value), max(queue.waiting), NULL
FROM gpu_reading, (SELECT max(waiting) AS waiting FROM engine) AS queue
WHERE metric = 'warpline.gpu.pipe.active' AND part = 'sm' AND near
GROUP BY what HAVING avg(value) >= 0.9 OR (avg(value) < 0.3 AND max(queue.waiting) >= 5)
UNION ALL
SELECT 'preempted', any_value(process_uid), count(*), count(DISTINCT internal_id), min(time_ns)
FROM engine_event
WHERE kind = 'preempted' AND time_ns >= $since_ns AND time_ns < $until_ns AND process_uid IN (SELECT process_uid FROM place)
GROUP BY process_uid
UNION ALL
SELECT 'own_preempted', '', sum(coalesce(next_ns, $until_ns) - time_ns), count(*) FILTER (next_ns IS NULL), max(time_ns)
FROM preemption WHERE kind = 'preempted' HAVING count(*) > 0
UNION ALL
SELECT 'kv_cache', what, kv_ratio, NULL, NULL FROM engine WHERE kv_ratio > 0.95
UNION ALL
SELECT 'kv_transfer', what, kv_bytes / kv_s, NULL, NULL FROM engine WHERE kv_bytes / nullif(kv_s, 0) < 1e9
UNION ALL
SELECT 'silent', $node::VARCHAR, gap_ns, NULL, before_ns FROM clock WHERE gap_ns > 15_000_000_000
UNION ALL
SELECT 'clock_set', $node::VARCHAR, stepped_ns, NULL, time_ns FROM clock WHERE abs(stepped_ns) > 1_000_000_000
UNION ALL
SELECT 'cold_start', what, coalesce(if(ready_ns < $until_ns, ready_ns, NULL), $until_ns) - created_ns, if(ready_ns < $until_ns, 1, 0), created_ns FROM starting
UNION ALL
SELECT 'image_pull', what, coalesce(if(pulled_ns < $until_ns, pulled_ns, NULL), $until_ns) - pulling_ns, if(pulled_ns < $until_ns, 1, 0), pulling_ns
FROM starting WHERE pulling_ns < $until_ns AND coalesce(pulled_ns, $until_ns) > pulling_ns
UNION ALL
SELECT 'resent', $node::VARCHAR, count(*) FILTER (retransmits > 1), count(*), NULL
FROM http_exchange
WHERE node = $node::VARCHAR AND start_ns >= $since_ns - 60_000_000_000 AND start_ns < $until_ns + 60_000_000_000 AND retransmits IS NOT NULL
HAVING count(*) FILTER (retransmits > 1) >= 5 AND count(*) FILTER (retransmits > 1) > 0.02 * count(*)
UNION ALL
SELECT 'dropped_flows', concat(if(ends.at IS NULL, '', 'to ' || ends.at || ' '), '(', coalesce(drop_reason, 'no reason told'), ')'), count(*), NULL, min(time_ns)
FROM (
    SELECT time_ns, drop_reason, coalesce(nullif(destination_pod, ''), nullif(destination_service, ''), nullif(destination_address, '')) AS at
    FROM flow
    WHERE verdict = 'DROPPED' AND time_ns >= $since_ns - 5_000_000_000 AND time_ns < $until_ns + 5_000_000_000
) AS ends
GROUP BY ends.at, drop_reason, time_ns >= $until_ns
UNION ALL
SELECT 'lost_rows', concat(source, ': ', reason), sum(lost)::DOUBLE, NULL, min(start_ns)
FROM loss
WHERE start_ns < $until_ns + 1_000_000_000 AND coalesce(end_ns, start_ns) >= $since_ns - 1_000_000_000
GROUP BY source, reason
)
SELECT happened.*, starting.address, starting.node
FROM happened
LEFT JOIN starting ON happened.kind IN ('cold_start', 'image_pull') AND starting.what = happened.what
ORDER BY happened.kind, amount DESC
