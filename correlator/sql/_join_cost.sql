-- Busy time of one owner in one step on one process's GPUs, in one stretch of time; `start_ns` is when the step began there,
-- whoever its time went to. Owners that are no request have no `owner`.
-- within: share 0 s
WITH part AS (
    SELECT time_ns // $stretch_ns AS stretch, process_uid, step_ordinal, time_ns, busy_ns,
        CASE WHEN owner NOT LIKE '\_\_%' ESCAPE '\' THEN owner END AS owner,
        (CASE phase WHEN 'prefill' THEN 0 WHEN 'decode' THEN 1 WHEN 'recompute' THEN 2 WHEN 'draft' THEN 3 ELSE 4 END)::TINYINT AS phase,
        (CASE evidence WHEN 'exact' THEN 0 WHEN 'derived' THEN 1 WHEN 'estimated' THEN 2 ELSE 3 END)::TINYINT AS evidence
    FROM share
    WHERE time_ns >= $since_ns AND time_ns < $until_ns AND step_ordinal IS NOT NULL
)
SELECT stretch, process_uid, step_ordinal AS ordinal, owner, min(time_ns) AS start_ns, sum(busy_ns)::BIGINT AS busy_ns,
    max(phase) AS phase, max(evidence) AS evidence
FROM part
GROUP BY stretch, process_uid, step_ordinal, owner
