-- One engine step that a request was in: its tokens, its share of the step's GPU time, and whose time the rest was. It lasts
-- from when its first execution began to when its last one ended, which may be much longer than its GPUs were busy:
-- `occupancy_ns` is their busy time, summed over GPUs, `busiest_ns` that of the GPU that had most. `request` is any id that the
-- request is known by; since_ns and until_ns, where given, spare reading the rest of the day.
-- parameters: request, since_ns, until_ns
-- within: alias 3600 s, share 5 s, step_member 0 s
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
-- What workers ran of a step is the step of their engine: of their parent, or of its only other child that is one.
family AS (SELECT process_uid, arg_max(parent_uid, start_ns) AS parent_uid FROM process GROUP BY process_uid),
worker AS (
    SELECT family.process_uid,
        CASE WHEN bool_or(engine.process_uid = family.parent_uid) THEN any_value(family.parent_uid)
            WHEN count(*) = 1 THEN any_value(engine.process_uid) END AS engine
    FROM (SELECT DISTINCT process_uid FROM member) AS engine
    LEFT JOIN family AS own ON own.process_uid = engine.process_uid
    JOIN family ON family.parent_uid = engine.process_uid OR family.parent_uid = own.parent_uid
    WHERE family.process_uid NOT IN (SELECT process_uid FROM member WHERE process_uid IS NOT NULL)
    GROUP BY family.process_uid
),
given AS (
    SELECT coalesce(worker.engine, share.process_uid) AS process_uid, step_ordinal, gpu_uuid, owner, time_ns, end_ns, share_ns,
        busy_ns, share_j, phase, evidence
    FROM share
    SEMI JOIN entered ON entered.process_uid = share.process_uid AND entered.step_ordinal = share.step_ordinal
    LEFT JOIN worker ON worker.process_uid = share.process_uid
    WHERE time_ns >= $since_ns - 5000000000 AND time_ns < $until_ns + 5000000000
),
part AS (
    SELECT
        process_uid,
        step_ordinal,
        owner,
        min(time_ns) AS time_ns,
        max(end_ns) AS end_ns,
        sum(share_ns)::BIGINT AS share_ns,
        sum(busy_ns)::BIGINT AS busy_ns,
        sum(share_j) AS share_j,
        any_value(phase) AS phase,
        max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence
    FROM given
    GROUP BY process_uid, step_ordinal, owner
),
-- Ranks of a step work at once on GPUs of their own: the wall sees the busiest.
busiest AS (
    SELECT process_uid, step_ordinal, max(busy_ns) AS busy_ns
    FROM (SELECT process_uid, step_ordinal, gpu_uuid, sum(busy_ns)::BIGINT AS busy_ns FROM given GROUP BY ALL)
    GROUP BY process_uid, step_ordinal
),
mine AS (SELECT * FROM part WHERE owner IN (SELECT value FROM subject)),
whole AS (
    SELECT
        process_uid,
        step_ordinal,
        min(time_ns) AS time_ns,
        max(end_ns) AS end_ns,
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
    -- Results of before their end was kept: it ended then at the soonest.
    coalesce(whole.end_ns, whole.time_ns + whole.step_busy_ns, member.time_ns) AS end_ns,
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
    busiest.busy_ns AS busiest_ns,
    CASE WHEN whole.requests = 1 THEN whole.step_busy_ns ELSE 0 END AS exclusive_ns,
    whole.heaviest_owner,
    whole.heaviest_phase,
    whole.heaviest_ns,
    member.level,
    mine.evidence
FROM mine
LEFT JOIN whole ON whole.process_uid = mine.process_uid AND whole.step_ordinal = mine.step_ordinal
LEFT JOIN busiest ON busiest.process_uid = mine.process_uid AND busiest.step_ordinal = mine.step_ordinal
FULL OUTER JOIN member
    ON member.process_uid = mine.process_uid AND member.step_ordinal = mine.step_ordinal AND member.internal_id = mine.owner
ORDER BY start_ns, step_ordinal
