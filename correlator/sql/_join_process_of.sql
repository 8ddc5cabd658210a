-- One stretch in which processes ran something on a GPU of whose kin something new was said: the process itself, its children, its
-- parent's children.
WITH said AS (
    SELECT process_uid, parent_uid, min(start_ns) AS start_ns FROM process
    WHERE start_ns >= $since_ns AND start_ns <= $until_ns AND hash(process_uid, parent_uid) >> 1 IN (SELECT unnest($new::UBIGINT[]))
    GROUP BY process_uid, parent_uid
),
kin AS (
    SELECT process_uid FROM said
    UNION
    SELECT process.process_uid FROM process
    JOIN said ON said.process_uid = process.parent_uid OR said.parent_uid = process.parent_uid
)
SELECT min(start_ns) AS first_ns, max(start_ns) AS last_ns
FROM gpu_kernel
-- A process runs nothing before it begins; clocks of a recording may say so by a little.
WHERE start_ns >= $since_ns - 1000000000 AND process_uid IN (SELECT process_uid FROM kin)
GROUP BY start_ns // 10000000000
