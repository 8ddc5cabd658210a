-- One engine step as the GPU shows it, of a process of which no better is known: what ran between two copies of tokens to the
-- host. Its number is its end in µs, so that it does not depend on the stretch of time that is looked at.
-- within: engine_message 0 s, step_member 0 s, launch 5 s, gpu_kernel 0 s
WITH covered AS (
    SELECT DISTINCT process_uid FROM engine_message WHERE time_ns >= $since_ns AND time_ns < $until_ns
    UNION
    SELECT DISTINCT process_uid FROM step_member WHERE level = 'plugin' AND time_ns >= $since_ns AND time_ns < $until_ns
),
family AS (SELECT process_uid, last(parent_uid ORDER BY start_ns) AS parent_uid FROM process GROUP BY process_uid),
served AS (
    -- A worker is covered by its engine: its parent.
    SELECT process_uid FROM covered
    UNION
    SELECT family.process_uid FROM family JOIN covered ON covered.process_uid = family.parent_uid
),
launches AS (
    SELECT process_uid, session, correlation_id, min(start_ns) AS start_ns, min(step_ordinal) AS step_ordinal
    FROM launch
    WHERE start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns AND recording_uid IS NULL
    GROUP BY ALL
),
ran AS (
    SELECT DISTINCT k.process_uid, k.node, k.start_ns, k.end_ns, k.kind = 'memcpy' AS copies, l.start_ns AS launched_ns
    FROM gpu_kernel AS k
    LEFT JOIN launches AS l
        ON l.process_uid = k.process_uid AND l.session IS NOT DISTINCT FROM k.session AND l.correlation_id = k.correlation_id
    WHERE k.start_ns >= $since_ns AND k.start_ns < $until_ns AND k.recording_uid IS NULL
        AND coalesce(k.validity, 'ok') = 'ok' AND coalesce(k.step_ordinal, l.step_ordinal) IS NULL
        AND k.process_uid NOT IN (SELECT process_uid FROM served)
),
numbered AS (
    SELECT *, coalesce(sum(copies::INTEGER) OVER (
        PARTITION BY process_uid ORDER BY start_ns, end_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), 0) AS copies_before
    FROM ran
)
SELECT process_uid, any_value(node) AS node, NULL::BIGINT AS engine_index, max(end_ns) // 1000 AS ordinal,
    coalesce(min(launched_ns), min(start_ns)) AS start_ns, max(end_ns) AS end_ns, NULL::BIGINT AS context_tokens,
    count(launched_ns) = count(*) AS launched
FROM numbered
GROUP BY process_uid, copies_before
HAVING bool_or(copies)
ORDER BY process_uid, ordinal
