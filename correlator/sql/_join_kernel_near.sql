-- What executions that began in [$since_ns, $until_ns] can change: the first and last moment of those that ran at once with any
-- (an execution laps over others for five seconds at most, executions.py), of graphs whose executions are among them, and,
-- where copies end steps, back to the end of the last copy but one before. `stamped` says whether any names its step.
-- within: gpu_kernel 10 s
WITH lately AS (
    SELECT process_uid, session, correlation_id, graph_node_id, kind, step_ordinal, start_ns, end_ns,
        start_ns >= $since_ns AS came, least(end_ns, start_ns + 5000000000) AS lap_ns
    FROM gpu_kernel
    WHERE start_ns >= $since_ns - 10000000000 AND start_ns <= $until_ns
),
lapped AS (
    SELECT min(start_ns) AS first_ns, max(lap_ns) AS last_ns, coalesce(bool_or(step_ordinal IS NOT NULL) FILTER (came), false) AS stamped
    FROM lately
    WHERE lap_ns > $since_ns
),
part AS (SELECT DISTINCT process_uid, session, correlation_id FROM lately WHERE came AND graph_node_id IS NOT NULL),
graph AS (
    SELECT min(start_ns) AS first_ns, max(start_ns) AS last_ns
    FROM gpu_kernel
    JOIN part ON part.process_uid = gpu_kernel.process_uid AND part.correlation_id = gpu_kernel.correlation_id
        AND part.session IS NOT DISTINCT FROM gpu_kernel.session
    WHERE kind = 'graph' AND start_ns >= $since_ns - 5000000000 AND start_ns <= $until_ns + 5000000000
),
copied AS (
    SELECT process_uid, max(end_ns, 2) FILTER (end_ns < $since_ns AND NOT came) AS ends, bool_or(came) AS came
    FROM lately
    WHERE kind = 'memcpy'
    GROUP BY process_uid
)
SELECT least(lapped.first_ns, graph.first_ns, $since_ns) AS first_ns, greatest(lapped.last_ns, graph.last_ns, $until_ns) AS last_ns, stamped,
    (SELECT min(coalesce(ends[2], $since_ns - 10000000000)) FROM copied WHERE came) AS copied_ns
FROM lapped, graph
