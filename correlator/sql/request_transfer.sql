-- One KV transfer that an attempt of a request waited for, in the engine that received it: `id` is its attempt_uid. From when its
-- engine's scheduler let it wait to when that heard that it need not: the bytes moved for as long at most.
-- parameters: id, since_ns, until_ns
-- within: alias 120 s, kv_transfer 120 s
WITH named AS (
    SELECT scope AS process_uid, value AS internal_id,
        max_by(evidence, list_position(['exact', 'derived', 'estimated', 'unknown'], evidence)) AS evidence
    FROM alias
    WHERE kind = 'internal_id' AND attempt_uid = $id::VARCHAR
    GROUP BY scope, value
)
SELECT DISTINCT each.process_uid, each.internal_id, each.transfer_id, each.start_ns, each.end_ns, each.transfer_bytes, each.outcome,
    each.simulated, named.evidence
FROM kv_transfer AS each
JOIN named ON named.internal_id = each.internal_id AND named.process_uid IS NOT DISTINCT FROM each.process_uid
WHERE each.direction = 'received' AND each.end_ns >= $since_ns AND each.start_ns < $until_ns
ORDER BY start_ns, end_ns
