-- One engine step that a request was in: its tokens, its share of the step's GPU time, and whose time the rest was. `request`
-- is any id that the request is known by; since_ns and until_ns, where given, spare reading the rest of the day.
-- parameters: request, since_ns, until_ns
WITH subject AS (FROM internal_ids($request::VARCHAR)),
member AS (
    SELECT
        process_uid,
        step_ordinal,
        internal_id,
        min(time_ns) AS time_ns,
        max(scheduled_tokens) AS scheduled_tokens,
        max(computed_before_tokens) AS computed_before_tokens,
        max(recomputed_tokens) AS recomputed_tokens,
        max(draft_tokens) - max(accepted_tokens) AS rejected_tokens,
        any_value(phase) AS phase,
        max_by(level, list_position(['plugin', 'wire', 'batches', 'totals', 'windows', 'spans', 'sockets'], level)) AS level
    FROM step_member
    WHERE internal_id IN (SELECT value FROM subject) AND time_ns >= $since_ns AND time_ns < $until_ns
    GROUP BY process_uid, step_ordinal, internal_id
),
-- The steps that it had a share of; of others nothing need be added up.
entered AS (
    SELECT DISTINCT process_uid, step_ordinal FROM share
    WHERE owner IN (SELECT value FROM subject) AND time_ns >= $since_ns - 5000000000 AND time_ns < $until_ns + 5000000000
),
part AS (
    SELECT
        process_uid,
        step_ordinal,
        owner,
        min(time_ns) AS time_ns,
        sum(share_ns)::BIGINT AS share_ns,
        sum(busy_ns)::BIGINT AS busy_ns,
        sum(share_j) AS share_j,
        any_value(phase) AS phase,
        max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence
    FROM share
    SEMI JOIN entered USING (process_uid, step_ordinal)
    WHERE time_ns >= $since_ns - 5000000000 AND time_ns < $until_ns + 5000000000
    GROUP BY process_uid, step_ordinal, owner
),
mine AS (SELECT * FROM part WHERE owner IN (SELECT value FROM subject)),
whole AS (
    SELECT
        process_uid,
        step_ordinal,
        min(time_ns) AS time_ns,
        sum(busy_ns)::BIGINT AS step_busy_ns,
        count(*) FILTER (WHERE owner NOT LIKE '\_\_%' ESCAPE '\') AS requests,
        max_by(owner, busy_ns) AS heaviest_owner,
        max_by(phase, busy_ns) AS heaviest_phase,
        max(busy_ns) AS heaviest_ns
    FROM part
    GROUP BY process_uid, step_ordinal
)
SELECT
    coalesce(mine.process_uid, member.process_uid) AS process_uid,
    coalesce(mine.step_ordinal, member.step_ordinal) AS step_ordinal,
    coalesce(mine.owner, member.internal_id) AS internal_id,
    coalesce(whole.time_ns, member.time_ns) AS start_ns,
    coalesce(whole.time_ns + whole.step_busy_ns, member.time_ns) AS end_ns,
    coalesce(mine.phase, member.phase) AS phase,
    member.scheduled_tokens,
    member.computed_before_tokens,
    member.recomputed_tokens,
    member.rejected_tokens,
    whole.requests,
    mine.share_ns,
    mine.busy_ns,
    mine.share_j,
    whole.step_busy_ns AS occupancy_ns,
    CASE WHEN whole.requests = 1 THEN whole.step_busy_ns ELSE 0 END AS exclusive_ns,
    whole.heaviest_owner,
    whole.heaviest_phase,
    whole.heaviest_ns,
    member.level,
    mine.evidence
FROM mine
LEFT JOIN whole ON whole.process_uid = mine.process_uid AND whole.step_ordinal = mine.step_ordinal
FULL OUTER JOIN member
    ON member.process_uid = mine.process_uid AND member.step_ordinal = mine.step_ordinal AND member.internal_id = mine.owner
ORDER BY start_ns, step_ordinal
