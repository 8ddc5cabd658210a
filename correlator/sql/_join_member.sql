-- One row of the step ledger around a stretch of time, for arrays: of steps [$low, $high] of any engine.
-- within: step_member 5 s
SELECT
    hash(process_uid) AS engine,
    step_ordinal AS ordinal,
    internal_id AS owner,
    scheduled_tokens AS scheduled,
    coalesce(computed_before_tokens, 0) AS context,
    CASE WHEN coalesce(sampled, phase = 'decode') THEN 1 + coalesce(accepted_tokens, 0) ELSE 0 END AS sampled,
    (coalesce(list_position(['plugin', 'wire', 'batches', 'totals', 'windows', 'spans', 'sockets'], level), 7) - 1)::TINYINT AS level,
    (CASE evidence WHEN 'exact' THEN 0 WHEN 'derived' THEN 1 WHEN 'estimated' THEN 2 ELSE 3 END)::TINYINT AS evidence,
    (CASE phase WHEN 'prefill' THEN 0 WHEN 'decode' THEN 1 WHEN 'recompute' THEN 2 WHEN 'draft' THEN 3 ELSE 4 END)::TINYINT AS phase
FROM step_member
WHERE time_ns >= $since_ns - 5000000000 AND time_ns < $until_ns + 5000000000
    AND step_ordinal >= $low AND step_ordinal <= $high
