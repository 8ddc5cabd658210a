-- What several views of one request ask alike. Not a view: the store makes these before the views.

-- The rows of `alias` of the request that `request` names: by any id that it is known by, or by the request_uid of the view
-- `request`, which names its exchange: node/side/process/connection/ordinal/start. Each id is asked for by itself and as one
-- value, because only then its files' Bloom filters (results.py) spare reading the aliases of all other requests.
CREATE OR REPLACE MACRO aliases_of(request) AS TABLE
    WITH known AS MATERIALIZED (
        SELECT request_uid FROM alias
        WHERE value IN (request, concat_ws('/', split_part(request, '/', 1), split_part(request, '/', -3),
            split_part(request, '/', -2), split_part(request, '/', 2)))
        UNION
        SELECT request_uid FROM alias WHERE attempt_uid = request
    )
    SELECT * FROM alias WHERE request_uid = request
    UNION
    SELECT * FROM alias WHERE request_uid = (SELECT min(request_uid) FROM known)
    UNION
    -- Nearly always none, and then nothing is read.
    SELECT * FROM alias
    WHERE request_uid IN (SELECT request_uid FROM known WHERE request_uid > (SELECT min(request_uid) FROM known));

-- The ids by which its engines knew it, those by which spans and sockets do where no engine tells, and the id that was asked for.
CREATE OR REPLACE MACRO internal_ids(request) AS TABLE
    SELECT value FROM aliases_of(request) WHERE kind IN ('internal_id', 'external_id', 'response_id')
    UNION
    SELECT request;

-- What ran in the steps of `engines`, a list of process_uid: how long and how often, by step, GPU and name. `shared_by` is the
-- class that a step's time is shared out by.
CREATE OR REPLACE MACRO kernels_of_steps(engines, since_time_ns, until_time_ns) AS TABLE
    -- A worker's engine is itself, its parent, or its parent's other child.
    WITH family AS (
        SELECT unnest(engines) AS engine, unnest(engines) AS process_uid
        UNION
        SELECT parent_uid, process_uid FROM process WHERE parent_uid IN (SELECT unnest(engines))
        UNION
        SELECT engine.process_uid, worker.process_uid
        FROM process AS engine
        JOIN process AS worker ON worker.parent_uid = engine.parent_uid
        WHERE engine.process_uid IN (SELECT unnest(engines))
    ),
    launches AS (
        SELECT process_uid, session, correlation_id, min(step_ordinal) AS step_ordinal
        FROM launch
        WHERE start_ns >= since_time_ns - 60000000000 AND start_ns < until_time_ns AND correlation_id IS NOT NULL AND recording_uid IS NULL
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
        WHERE start_ns >= since_time_ns AND start_ns < until_time_ns + 60000000000 AND recording_uid IS NULL AND kind <> 'sync'
            AND coalesce(validity, 'ok') = 'ok' AND process_uid IN (SELECT process_uid FROM family)
    ),
    -- Kernels inside CUDA graphs, where they were recorded: then the record of their whole graph would count them twice.
    nodes AS (SELECT DISTINCT process_uid, session, correlation_id FROM executed WHERE graph_node_id IS NOT NULL)
    SELECT family.engine, coalesce(executed.step_ordinal, launches.step_ordinal) AS step_ordinal, executed.gpu_uuid,
        executed.shared_by, executed.kernel_class, executed.name, sum(executed.end_ns - executed.start_ns) AS ran_ns, count(*) AS executions
    FROM executed
    JOIN family ON family.process_uid = executed.process_uid
    LEFT JOIN launches ON launches.process_uid = executed.process_uid AND launches.correlation_id = executed.correlation_id
        AND launches.session IS NOT DISTINCT FROM executed.session
    LEFT JOIN nodes ON executed.kind = 'graph' AND nodes.process_uid = executed.process_uid
        AND nodes.correlation_id = executed.correlation_id AND nodes.session IS NOT DISTINCT FROM executed.session
    WHERE nodes.process_uid IS NULL
    GROUP BY ALL;

-- Times at which a GPU was held back or failed: between two readings its throttled time grew, its Xid changed, its error count grew;
-- or a reading named a reason why its clock was down, which stands until the next one. `of_nodes` may be empty: then all.
CREATE OR REPLACE MACRO gpu_marks(since_time_ns, until_time_ns, of_nodes) AS TABLE
    WITH reading AS (
        SELECT node, gpu_uuid, gpu_instance, index, metric, part, value, time_ns, simulated,
            lag(time_ns) OVER same AS before_ns, lag(value) OVER same AS before, lead(time_ns) OVER same AS after_ns
        FROM gpu_sample
        WHERE time_ns >= since_time_ns AND time_ns < until_time_ns
            AND metric IN ('warpline.gpu.throttled', 'warpline.gpu.clock.reasons', 'warpline.gpu.xid.last', 'hw.errors')
            AND (len(of_nodes) = 0 OR node IN (SELECT unnest(of_nodes)))
        WINDOW same AS (PARTITION BY node, gpu_uuid, gpu_instance, metric, part ORDER BY time_ns)
    )
    SELECT *, 'throttled' AS kind, part AS what, before_ns AS start_ns, time_ns AS end_ns, (value - before) * 1e9 AS amount
    FROM reading WHERE metric = 'warpline.gpu.throttled' AND value > before
    UNION ALL
    SELECT *, 'xid', 'XID ' || value::BIGINT, before_ns, time_ns, value FROM reading
    WHERE metric = 'warpline.gpu.xid.last' AND value <> before AND value > 0
    UNION ALL
    SELECT *, 'errors', replace(part, '_', ' '), before_ns, time_ns, value - before FROM reading
    WHERE metric = 'hw.errors' AND value > before
    UNION ALL
    -- NVML's nvmlClocksEventReasons, of which being idle (1) and clocks that somebody set (2) are no trouble.
    SELECT *, 'throttled', concat_ws(', ', CASE WHEN value::BIGINT & 4 > 0 THEN 'power cap' END,
        CASE WHEN value::BIGINT & 8 > 0 THEN 'hardware slowdown' END, CASE WHEN value::BIGINT & 32 > 0 THEN 'thermal' END,
        CASE WHEN value::BIGINT & 64 > 0 THEN 'hardware thermal' END, CASE WHEN value::BIGINT & 128 > 0 THEN 'power brake' END),
        time_ns, coalesce(after_ns, time_ns), NULL FROM reading
    WHERE metric = 'warpline.gpu.clock.reasons' AND value::BIGINT & 236 > 0;
