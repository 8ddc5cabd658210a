-- One measure of a request beside its peers: the answered requests of its path and model that began in [since_ns, begun_ns). Or,
-- where `property` names one (model, pod, prefill: the pod of its prefill, gpu), of those that share its value with this request
-- beside those that do not: `own` and `peers_p50` are medians then, `others` counts the other values, and `z` is the normal score
-- of the Mann-Whitney test that its own are more (ties corrected). `within` names a property that all of them share: GPUs of one
-- pod, pods on one GPU. The request itself is on neither side then.
-- The last of them ended at until_ns. Times in ns; `batch` is the mean number of requests in its decode steps,
-- `idle_ns` and `idle_ratio` the time between its first schedule and its last token in which no GPU worked on its steps.
-- parameters: request_uid, since_ns, begun_ns, until_ns
-- within: http_exchange 0 s, alias 60 s, engine_request 60 s, engine_event 1 s, engine_emission 1 s, share 1 s, step_member 1 s
-- within: served_model 0 s
WITH asked AS (
    SELECT path, method, concat_ws('/', node, connection_id, ordinal, side) AS asked_uid FROM http_exchange
    WHERE start_ns = split_part($request_uid::VARCHAR, '/', -1)::BIGINT
        AND concat_ws('/', node, connection_id, ordinal, side) = concat_ws('/', split_part($request_uid::VARCHAR, '/', 1),
            split_part($request_uid::VARCHAR, '/', -3), split_part($request_uid::VARCHAR, '/', -2), split_part($request_uid::VARCHAR, '/', 2))
    LIMIT 1
),
exchange AS (
    SELECT concat_ws('/', node, connection_id, ordinal, side) AS uid, uid = asked_uid AS mine, node, pod_uid, process_uid, start_ns,
        concat(local_address, ':', local_port) AS address,
        coalesce(end_ns, last_chunk_ns, first_body_ns, response_start_ns, request_end_ns, start_ns) - start_ns AS duration_ns,
        first_body_ns - start_ns AS ttft_ns,
        status = 200 AND coalesce(grpc_status, 0) = 0 AND end_ns IS NOT NULL AND coalesce(ended_by, '') <> 'abort' AS answered
    FROM http_exchange, asked
    WHERE start_ns >= $since_ns AND start_ns < $begun_ns::BIGINT AND side = split_part($request_uid::VARCHAR, '/', 2)
        AND http_exchange.path IS NOT DISTINCT FROM asked.path AND http_exchange.method IS NOT DISTINCT FROM asked.method
    -- A row that was open is written again when it ends: the last one holds.
    QUALIFY row_number() OVER (PARTITION BY node, connection_id, ordinal, side, process_uid, start_ns ORDER BY end_ns DESC NULLS LAST) = 1
),
carried AS (
    SELECT value, attempt_uid, request_uid FROM alias
    WHERE kind = 'exchange' AND time_ns >= $since_ns - 60_000_000_000 AND time_ns < $begun_ns::BIGINT + 60_000_000_000
        AND value IN (SELECT uid FROM exchange)
),
-- Of what a proxy passed on, the last server's exchange is the request.
attempt AS (
    SELECT exchange.*, carried.request_uid, coalesce(carried.attempt_uid, exchange.uid) AS attempt_uid,
        bool_or(mine) OVER (PARTITION BY coalesce(carried.attempt_uid, exchange.uid)) AS own
    FROM exchange LEFT JOIN carried ON carried.value = exchange.uid
    QUALIFY row_number() OVER (PARTITION BY coalesce(carried.attempt_uid, exchange.uid) ORDER BY mine DESC, start_ns DESC) = 1
),
-- Its prefill in another engine is an attempt of its own.
prefill AS (
    SELECT DISTINCT internal_id FROM engine_request
    WHERE role = 'prefill' AND start_ns >= $since_ns - 60_000_000_000 AND start_ns < $until_ns
),
named AS (
    SELECT DISTINCT attempt.attempt_uid, alias.value AS owner, alias.attempt_uid <> attempt.attempt_uid AS apart
    FROM alias
    JOIN attempt ON attempt.request_uid = alias.request_uid
    WHERE alias.kind IN ('internal_id', 'external_id', 'response_id') AND alias.time_ns >= $since_ns - 60_000_000_000
        AND alias.time_ns < $begun_ns::BIGINT + 60_000_000_000
        AND (alias.attempt_uid = attempt.attempt_uid OR (alias.kind = 'internal_id' AND alias.value IN (SELECT internal_id FROM prefill)))
),
engine AS (
    SELECT attempt_uid, apart, process_uid, internal_id, max(model) AS model, max(role) AS role, max(prompt_tokens) AS prompt_tokens,
        max(output_tokens) AS output_tokens, min(start_ns) AS start_ns
    FROM engine_request JOIN named ON named.owner = internal_id
    WHERE start_ns >= $since_ns - 60_000_000_000 AND start_ns < $until_ns
    GROUP BY ALL
),
mark AS (
    SELECT process_uid, internal_id,
        min(time_ns) FILTER (kind = 'queued') AS queued_ns,
        min(time_ns) FILTER (kind IN ('scheduled', 'resumed')) AS scheduled_ns,
        min(time_ns) FILTER (kind = 'first_token') AS first_token_ns,
        max(time_ns) FILTER (kind IN ('finished', 'aborted')) AS finished_ns
    FROM engine_event
    WHERE time_ns >= $since_ns - 1_000_000_000 AND time_ns < $until_ns + 1_000_000_000 AND internal_id IN (SELECT owner FROM named)
    GROUP BY ALL
),
said AS (
    SELECT process_uid, internal_id, min(time_ns) AS first_ns, max(time_ns) AS last_ns, sum(new_tokens)::BIGINT AS tokens,
        max(prompt_tokens) AS prompt_tokens
    FROM engine_emission
    WHERE time_ns >= $since_ns - 1_000_000_000 AND time_ns < $until_ns + 1_000_000_000 AND new_tokens > 0
        AND internal_id IN (SELECT owner FROM named)
    GROUP BY ALL
),
-- Several samples or prompts are one request, as in `request`.
phase AS (
    SELECT attempt_uid, any_value(model) AS model, coalesce(max(role), 'whole') AS role, max(scheduled_ns - coalesce(queued_ns, start_ns)) AS queue_ns,
        max(coalesce(first_token_ns, first_ns) - scheduled_ns) AS prefill_ns,
        max(coalesce(last_ns, finished_ns) - coalesce(first_token_ns, first_ns)) AS decode_ns,
        sum(coalesce(engine.prompt_tokens, said.prompt_tokens))::BIGINT AS prompt_tokens,
        sum(coalesce(engine.output_tokens, said.tokens))::BIGINT AS output_tokens
    FROM engine
    LEFT JOIN mark USING (process_uid, internal_id)
    LEFT JOIN said USING (process_uid, internal_id)
    WHERE NOT apart
    GROUP BY attempt_uid
),
given AS (
    SELECT named.attempt_uid, share.gpu_uuid, coalesce(named.role, '') = 'prefill' AS prefills, sum(share.share_j) AS share_j
    FROM share JOIN (
        SELECT DISTINCT named.*, role FROM named LEFT JOIN engine ON engine.attempt_uid = named.attempt_uid AND engine.internal_id = named.owner
    ) AS named USING (owner)
    WHERE time_ns >= $since_ns - 1_000_000_000 AND time_ns < $until_ns + 1_000_000_000
    GROUP BY ALL
),
-- How long a GPU worked on the steps that each was in: where ranks work at once, that which had most.
step AS (
    SELECT process_uid, step_ordinal, max(busy_ns) AS busy_ns
    FROM (
        SELECT process_uid, step_ordinal, gpu_uuid, sum(busy_ns) AS busy_ns FROM share
        WHERE time_ns >= $since_ns - 1_000_000_000 AND time_ns < $until_ns + 1_000_000_000 AND step_ordinal IS NOT NULL
        GROUP BY ALL
    )
    GROUP BY ALL
),
worked AS (
    SELECT attempt_uid, sum(busy_ns) AS busy_ns
    FROM (
        SELECT entered.attempt_uid, entered.step_ordinal, max(step.busy_ns) AS busy_ns
        FROM (
            SELECT DISTINCT named.attempt_uid, share.process_uid, share.step_ordinal FROM share JOIN named USING (owner)
            WHERE time_ns >= $since_ns - 1_000_000_000 AND time_ns < $until_ns + 1_000_000_000 AND NOT named.apart
        ) AS entered
        JOIN step USING (process_uid, step_ordinal)
        GROUP BY ALL
    )
    GROUP BY attempt_uid
),
seat AS (
    SELECT process_uid, engine_index, step_ordinal, internal_id, any_value(phase) AS phase FROM step_member
    WHERE time_ns >= $since_ns - 1_000_000_000 AND time_ns < $until_ns + 1_000_000_000
    GROUP BY ALL
),
batch AS (
    SELECT named.attempt_uid, avg(size.requests) AS batch
    FROM named
    JOIN seat ON seat.internal_id = named.owner AND seat.phase = 'decode'
    JOIN (SELECT process_uid, engine_index, step_ordinal, count(*) AS requests FROM seat GROUP BY ALL) AS size
        ON size.process_uid IS NOT DISTINCT FROM seat.process_uid AND size.engine_index IS NOT DISTINCT FROM seat.engine_index
        AND size.step_ordinal = seat.step_ordinal
    GROUP BY named.attempt_uid
    HAVING count(*) >= 4
),
known_gpu AS (
    SELECT coalesce(mig_uuid, gpu_uuid) AS gpu_uuid, concat(if(any_value(mig_uuid) IS NULL, 'GPU ', 'a MIG instance of GPU '),
        arg_max("index", time_ns), ' of ', arg_max(node, time_ns)) AS name
    FROM gpu WHERE "index" IS NOT NULL AND node IS NOT NULL GROUP BY ALL
),
known_pod AS (
    SELECT process_uid, 'pod ' || concat_ws('/', arg_max(namespace, start_ns), arg_max(pod, start_ns)) AS name
    FROM process WHERE pod IS NOT NULL GROUP BY process_uid
),
served AS (
    SELECT attempt_uid, process_uid, coalesce(role, 'whole') = 'prefill' AS prefills FROM engine WHERE process_uid IS NOT NULL
    UNION
    SELECT attempt_uid, process_uid, false FROM attempt
    WHERE process_uid IS NOT NULL AND attempt_uid NOT IN (SELECT attempt_uid FROM engine WHERE process_uid IS NOT NULL)
),
-- An engine rarely says which model a request is of; what its pod or its address serves is told elsewhere.
serves AS (
    SELECT attempt_uid, coalesce(in_pod.model, at_address.model) AS model
    FROM attempt
    LEFT JOIN (SELECT process_uid, arg_max(pod_uid, start_ns) AS pod_uid FROM process GROUP BY process_uid) AS process USING (process_uid)
    LEFT JOIN served_model AS in_pod ON in_pod.pod_uid = coalesce(attempt.pod_uid, process.pod_uid)
    LEFT JOIN served_model AS at_address ON at_address.address = attempt.address AND coalesce(at_address.node, attempt.node) = attempt.node
),
-- Where there are no pods, processes stand for them.
pods AS (
    SELECT attempt_uid, string_agg(DISTINCT name, ' and ' ORDER BY name) FILTER (NOT prefills) AS pod,
        string_agg(DISTINCT name, ' and ' ORDER BY name) FILTER (prefills) AS prefill
    FROM (
        SELECT attempt_uid, prefills,
            coalesce(known_pod.name, concat('process ', split_part(process_uid, ':', -1), ' on ', split_part(process_uid, ':', 1))) AS name
        FROM served LEFT JOIN known_pod USING (process_uid)
    )
    GROUP BY attempt_uid
),
gpus AS (
    SELECT attempt_uid, string_agg(DISTINCT name, ' and ' ORDER BY name) FILTER (NOT prefills) AS gpu, sum(share_j) AS share_j
    FROM (SELECT given.*, coalesce(known_gpu.name, gpu_uuid) AS name FROM given LEFT JOIN known_gpu USING (gpu_uuid))
    GROUP BY attempt_uid
),
each AS MATERIALIZED (
    SELECT own, answered, duration_ns::DOUBLE AS duration_ns, ttft_ns::DOUBLE AS ttft_ns, queue_ns::DOUBLE AS queue_ns,
        prefill_ns::DOUBLE AS prefill_ns, decode_ns::DOUBLE AS decode_ns, decode_ns / nullif(output_tokens - 1, 0) AS token_ns,
        prompt_tokens::DOUBLE AS prompt_tokens, output_tokens::DOUBLE AS output_tokens, batch,
        greatest(prefill_ns + decode_ns - worked.busy_ns, 0)::DOUBLE AS idle_ns, idle_ns / nullif(prefill_ns + decode_ns, 0) AS idle_ratio,
        gpus.share_j / nullif(output_tokens, 0) AS token_j,
        coalesce(phase.model, serves.model) AS model, role,
        MAP {'model': coalesce(phase.model, serves.model), 'pod': pod, 'prefill': prefill, 'gpu': gpu} AS has
    FROM attempt
    LEFT JOIN phase USING (attempt_uid)
    LEFT JOIN batch USING (attempt_uid)
    LEFT JOIN worked USING (attempt_uid)
    LEFT JOIN serves USING (attempt_uid)
    LEFT JOIN pods USING (attempt_uid)
    LEFT JOIN gpus USING (attempt_uid)
    WHERE own OR answered
),
compared AS (
    SELECT property, within, subject.has[property] AS value, each.has[property] AS whose,
        if(property IS NULL, each.own, each.has[property] = subject.has[property]) AS side, each.* EXCLUDE (own, answered, model, role, has)
    FROM each, (FROM each WHERE own) AS subject, (VALUES
        (NULL, NULL), ('model', NULL), ('pod', NULL), ('prefill', NULL), ('gpu', NULL), ('gpu', 'pod'), ('pod', 'gpu')
    ) AS comparison (property, within)
    WHERE (each.model IS NOT DISTINCT FROM subject.model OR property = 'model') AND each.role IS NOT DISTINCT FROM subject.role
        AND (property IS NULL OR (NOT each.own AND each.has[property] IS NOT NULL AND subject.has[property] IS NOT NULL))
        AND (within IS NULL OR each.has[within] = subject.has[within])
),
long AS (
    SELECT property, within, value, side, whose, measure, amount
    FROM (UNPIVOT compared ON duration_ns, ttft_ns, queue_ns, prefill_ns, decode_ns, token_ns, prompt_tokens, output_tokens, batch, token_j, idle_ns,
        idle_ratio
        INTO NAME measure VALUE amount)
),
-- The middle rank of those that are equal, and how many they are.
ranked AS (
    SELECT *, count(*) OVER same AS ties, rank() OVER (PARTITION BY property, within, measure ORDER BY amount) + (count(*) OVER same - 1) / 2 AS place
    FROM long
    WINDOW same AS (PARTITION BY property, within, measure, amount)
),
summed AS (
    SELECT property, within, any_value(value) AS value, measure, count(*) FILTER (side) AS own_requests, count(*) FILTER (NOT side) AS peers,
        count(DISTINCT whose) FILTER (NOT side) AS others,
        quantile_cont(amount, 0.5) FILTER (side) AS own, quantile_cont(amount, 0.5) FILTER (NOT side) AS peers_p50,
        quantile_cont(amount, 0.95) FILTER (NOT side) AS peers_p95, sum(place) FILTER (side) AS rank_sum,
        sum(ties * ties - 1) / greatest(count(*) * (count(*) - 1), 1) AS tied
    FROM ranked
    GROUP BY property, within, measure
)
SELECT property, within, value, measure, own, own_requests, peers_p50, peers_p95, peers, others,
    if(property IS NULL, NULL, (rank_sum - own_requests * (own_requests + 1) / 2 - own_requests * peers / 2)
        / nullif(sqrt(own_requests * peers / 12 * greatest(own_requests + peers + 1 - tied, 0)), 0)) AS z
FROM summed
ORDER BY property NULLS FIRST, within NULLS FIRST, measure
