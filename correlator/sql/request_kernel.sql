-- What one request was given of the executions of one name: its share of each step's GPU time in the class that time is shared
-- out by, divided among the executions of that step, GPU and class by how long they ran. All rows sum to its share; where none
-- of them is on record, the name is NULL. `request` is any id that it is known by.
-- parameters: request, since_ns, until_ns
WITH own AS (
    SELECT process_uid, step_ordinal, gpu_uuid, kernel_class AS shared_by, sum(share_ns)::BIGINT AS share_ns, sum(share_j) AS share_j
    FROM share
    WHERE time_ns >= $since_ns AND time_ns < $until_ns AND owner IN (FROM internal_ids($request::VARCHAR))
    GROUP BY ALL
),
-- A worker's engine is itself, its parent, or its parent's other child.
family AS (
    SELECT process_uid AS engine, process_uid FROM own
    UNION
    SELECT parent_uid, process_uid FROM process WHERE parent_uid IN (SELECT process_uid FROM own)
    UNION
    SELECT engine.process_uid, worker.process_uid
    FROM process AS engine
    JOIN process AS worker ON worker.parent_uid = engine.parent_uid
    WHERE engine.process_uid IN (SELECT process_uid FROM own)
),
launches AS (
    SELECT process_uid, session, correlation_id, min(step_ordinal) AS step_ordinal
    FROM launch
    WHERE start_ns >= $since_ns - 60000000000 AND start_ns < $until_ns AND correlation_id IS NOT NULL AND recording_uid IS NULL
        AND process_uid IN (SELECT process_uid FROM family)
    GROUP BY ALL
),
executed AS (
    SELECT process_uid, session, correlation_id, graph_node_id, step_ordinal, gpu_uuid, kind, start_ns, end_ns,
        -- A graph that was recorded as one, a copy, a fill: they have no name of their own.
        coalesce(name, CASE kind WHEN 'graph' THEN 'CUDA graph' ELSE kind END) AS name,
        coalesce(kernel_class, kind) AS kernel_class,
        CASE kernel_class WHEN 'attention' THEN 'attention' WHEN 'sampling' THEN 'sampling' ELSE 'dense' END AS shared_by
    FROM gpu_kernel
    WHERE start_ns >= $since_ns AND start_ns < $until_ns + 60000000000 AND recording_uid IS NULL AND kind <> 'sync'
        AND coalesce(validity, 'ok') = 'ok' AND process_uid IN (SELECT process_uid FROM family)
),
-- Kernels inside CUDA graphs, where they were recorded: then the record of their whole graph would count them twice.
nodes AS (SELECT DISTINCT process_uid, session, correlation_id FROM executed WHERE graph_node_id IS NOT NULL),
ran AS (
    SELECT family.engine, coalesce(executed.step_ordinal, launches.step_ordinal) AS step_ordinal, executed.gpu_uuid,
        executed.shared_by, executed.kernel_class, executed.name, sum(executed.end_ns - executed.start_ns) AS ran_ns, count(*) AS executions
    FROM executed
    JOIN family ON family.process_uid = executed.process_uid
    LEFT JOIN launches ON launches.process_uid = executed.process_uid AND launches.correlation_id = executed.correlation_id
        AND launches.session IS NOT DISTINCT FROM executed.session
    LEFT JOIN nodes ON executed.kind = 'graph' AND nodes.process_uid = executed.process_uid
        AND nodes.correlation_id = executed.correlation_id AND nodes.session IS NOT DISTINCT FROM executed.session
    WHERE nodes.process_uid IS NULL
    GROUP BY ALL
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
