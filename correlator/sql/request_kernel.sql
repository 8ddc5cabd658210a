-- What one request was given of the executions of one name: its share of each step's GPU time in the class that time is shared
-- out by, divided among the executions of that step, GPU and class by how long they ran. All rows sum to its share; where none
-- of them is on record, the name is NULL. `request` is any id that it is known by.
-- parameters: request, since_ns, until_ns
-- within: share 0 s, launch 60 s, gpu_kernel 60 s
WITH own AS MATERIALIZED (
    SELECT process_uid, step_ordinal, gpu_uuid, kernel_class AS shared_by, sum(share_ns)::BIGINT AS share_ns, sum(share_j) AS share_j
    FROM share
    WHERE time_ns >= $since_ns AND time_ns < $until_ns AND owner IN (FROM internal_ids($request::VARCHAR))
    GROUP BY ALL
),
ran AS (
    FROM kernels_of_steps((SELECT list(DISTINCT process_uid) FROM own), $since_ns::BIGINT, $until_ns::BIGINT)
),
given AS (
    SELECT coalesce(ran.kernel_class, own.shared_by) AS kernel_class, ran.name, ran.executions, own.share_ns, own.share_j,
        coalesce(ran.ran_ns / sum(ran.ran_ns) OVER (PARTITION BY own.process_uid, own.step_ordinal, own.gpu_uuid, own.shared_by), 1) AS part
    FROM own
    LEFT JOIN ran ON ran.engine = own.process_uid AND ran.step_ordinal = own.step_ordinal AND ran.gpu_uuid = own.gpu_uuid
        AND ran.shared_by = own.shared_by
)
SELECT kernel_class, name, sum(share_ns * part) AS share_ns, sum(share_j * part) AS share_j, sum(executions)::BIGINT AS executions
FROM given
GROUP BY kernel_class, name
ORDER BY share_ns DESC
