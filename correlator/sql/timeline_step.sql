-- One owner of an engine step's GPU time: a request or a bucket, its tokens in the step and its share of the kernels.
-- parameters: step_ordinal, since_ns, until_ns
-- within: step_member 60 s, share 60 s
WITH member AS (
    SELECT internal_id AS owner, any_value(phase) AS phase, sum(scheduled_tokens)::BIGINT AS tokens, any_value(evidence) AS evidence,
        any_value(level) AS level
    FROM step_member
    WHERE step_ordinal = $step_ordinal AND time_ns >= $since_ns - 60000000000 AND time_ns < $until_ns + 60000000000
    GROUP BY internal_id
), part AS (
    SELECT owner, sum(share_ns)::BIGINT AS share_ns, any_value(evidence) AS evidence
    FROM share
    WHERE step_ordinal = $step_ordinal AND time_ns >= $since_ns - 60000000000 AND time_ns < $until_ns + 60000000000
    GROUP BY owner
)
SELECT owner, member.phase, member.tokens, part.share_ns, coalesce(part.evidence, member.evidence) AS evidence, member.level
FROM member FULL OUTER JOIN part USING (owner)
ORDER BY share_ns DESC NULLS LAST, tokens DESC NULLS LAST
LIMIT 200
