-- On GPU {gpu_uuid} of {node}, {name} gets {value:.0%} of the busy time that it shares with others.
-- severity: warning
-- for: 20s
-- threshold: most_ratio = 0.9; one process leaves the others next to nothing
-- threshold: least_busy_ratio = 0.5; on a GPU with room nobody is noisy
-- missing: quiet
-- runbook: give the neighbour a MIG instance or a GPU of its own
WITH used AS (
    SELECT node, gpu_uuid, process_uid, SUM(busy_ns) AS busy_ns FROM gpu_busy
    WHERE start_ns > $now_ns - 30000000000 AND start_ns <= $now_ns GROUP BY ALL
), total AS (
    SELECT *, SUM(busy_ns) OVER gpu AS all_ns, COUNT(*) OVER gpu AS processes FROM used WINDOW gpu AS (PARTITION BY node, gpu_uuid)
)
SELECT node, gpu_uuid, process_uid, busy_ns / NULLIF(all_ns, 0) AS value,
    busy_ns / NULLIF(all_ns, 0) > $most_ratio AND all_ns / 30e9 > $least_busy_ratio AS firing,
    COALESCE(who.pod, CONCAT(COALESCE(who.executable, 'a process'), ' pid ', SPLIT_PART(process_uid, ':', -1))) AS name
FROM total
LEFT JOIN (
    SELECT process_uid, 'pod ' || COALESCE(ANY_VALUE(namespace) || '/', '') || ANY_VALUE(pod) AS pod, ANY_VALUE(executable) AS executable
    FROM process GROUP BY process_uid
) AS who USING (process_uid)
WHERE processes > 1
