-- One pod's way from creation to its first token: what each stage took, as far as its Events, its containers, its engine's
-- metrics and its first answers tell. The container is the one that started last of the pod's own (a sidecar is up sooner);
-- a restart is no cold start: of each stage the first counts.
--
-- Kubelet's times are whole seconds, so the order of stages is that of their reasons and a stage may seem to take 0 s or one
-- second more than it did; the pull's own duration, in the text of its Event, is exact, and its waiting in the queue of a
-- node that pulls one image after the other is told apart. Load is what lies between a started container and a ready one:
-- reading weights, compiling, capturing graphs.
WITH event AS (
    SELECT
        *,
        regexp_extract(message, ' in (\S+?)(?: \(|\.? |\.?$)', 1) AS pull_text,
        regexp_extract(message, '\((\S+) including waiting\)', 1) AS whole_text
    FROM cluster_event
    WHERE kind = 'Pod' AND object_uid IS NOT NULL
),
staged AS (
    SELECT
        object_uid AS pod_uid,
        container,
        min(time_ns) FILTER (WHERE reason = 'Pulling') AS pulling_ns,
        min(coalesce(start_ns_of_series, time_ns)) FILTER (WHERE reason = 'Pulled') AS pulled_ns,
        min(coalesce(start_ns_of_series, time_ns)) FILTER (WHERE reason = 'Created') AS container_created_ns,
        min(coalesce(start_ns_of_series, time_ns)) FILTER (WHERE reason = 'Started') AS started_ns,
        arg_min(message, time_ns) FILTER (WHERE reason = 'Pulled') AS pulled_message,
        arg_min(pull_text, time_ns) FILTER (WHERE reason = 'Pulled') AS pull_text,
        arg_min(whole_text, time_ns) FILTER (WHERE reason = 'Pulled') AS whole_text
    FROM event
    WHERE container IS NOT NULL
    GROUP BY object_uid, container
),
main AS (
    SELECT *
    FROM staged
    QUALIFY row_number() OVER (PARTITION BY pod_uid ORDER BY started_ns DESC NULLS LAST, pulled_ns DESC NULLS LAST) = 1
),
-- A Go duration: 1h2m3.5s, 4.783086211s, 272.563572ms, 15.2µs.
pull AS (
    SELECT
        pod_uid,
        which,
        sum(
            coalesce(try_cast(regexp_extract(part, '^[0-9.]+') AS DOUBLE), 0)
            * CASE regexp_extract(part, '[a-zµμ]+$')
                WHEN 'h' THEN 3.6e12 WHEN 'm' THEN 6e10 WHEN 's' THEN 1e9 WHEN 'ms' THEN 1e6
                WHEN 'µs' THEN 1e3 WHEN 'μs' THEN 1e3 WHEN 'us' THEN 1e3 WHEN 'ns' THEN 1
            END
        )::BIGINT AS duration_ns
    FROM (
        SELECT pod_uid, 'pull' AS which, unnest(regexp_extract_all(pull_text, '[0-9.]+[a-zµμ]+')) AS part FROM main
        UNION ALL
        SELECT pod_uid, 'whole', unnest(regexp_extract_all(whole_text, '[0-9.]+[a-zµμ]+')) FROM main
    )
    GROUP BY pod_uid, which
),
scheduling AS (
    SELECT
        object_uid AS pod_uid,
        any_value(object) AS pod,
        any_value(namespace) AS namespace,
        min(time_ns) FILTER (WHERE reason = 'Scheduled') AS scheduled_ns,
        sum(occurrences) FILTER (WHERE reason = 'FailedScheduling') AS failed_schedulings,
        arg_max(message, time_ns) FILTER (WHERE reason = 'FailedScheduling') AS why_not_scheduled
    FROM event
    GROUP BY object_uid
),
life AS (
    SELECT
        pod_uid,
        container,
        -- The runtime's own events are exact to the ns; Kubernetes' are whole seconds.
        coalesce(
            min(time_ns) FILTER (WHERE kind = 'started' AND observed_by = 'container_events'),
            min(time_ns) FILTER (WHERE kind = 'started')
        ) AS started_ns,
        min(time_ns) FILTER (WHERE kind = 'ready') AS ready_ns
    FROM container_state
    WHERE pod_uid IS NOT NULL
    GROUP BY pod_uid, container
),
known AS (
    SELECT
        pod_uid,
        arg_max(pod, time_ns) AS pod,
        arg_max(namespace, time_ns) AS namespace,
        arg_max(node, time_ns) AS node,
        arg_max(pod_ip, time_ns) AS pod_ip,
        arg_max(service, time_ns) AS service,
        arg_max(engine, time_ns) AS engine,
        arg_max(model, time_ns) AS model,
        min(created_ns) AS created_ns
    FROM pod
    GROUP BY pod_uid
),
answered AS (
    SELECT
        split_part(target, ':', 1) AS address,
        min(time_ns) AS first_sample_ns,
        min(time_ns) FILTER (WHERE metric = 'ttft' AND statistic = 'count' AND value > 0) AS first_token_ns
    FROM engine_sample
    GROUP BY address
),
served AS (
    SELECT pod_uid, min(first_body_ns) AS first_token_ns
    FROM http_exchange
    WHERE side = 'server' AND pod_uid IS NOT NULL AND status = 200 AND response_id IS NOT NULL
    GROUP BY pod_uid
),
joined AS (
    SELECT
        pod_uid,
        coalesce(known.pod, scheduling.pod) AS pod,
        coalesce(known.namespace, scheduling.namespace) AS namespace,
        known.node,
        known.service,
        known.engine,
        known.model,
        main.container,
        known.created_ns,
        scheduling.scheduled_ns,
        main.pulling_ns,
        main.pulled_ns,
        main.container_created_ns,
        coalesce(life.started_ns, main.started_ns) AS started_ns,
        life.ready_ns,
        answered.first_sample_ns,
        -- A scrape sees the first token up to its interval late; a socket sees it at once.
        coalesce(served.first_token_ns, answered.first_token_ns) AS first_token_ns,
        coalesce(scheduling.failed_schedulings, 0)::BIGINT AS failed_schedulings,
        scheduling.why_not_scheduled,
        contains(main.pulled_message, 'already present') AS image_present,
        pull.duration_ns AS pull_ns,
        whole.duration_ns - pull.duration_ns AS pull_queue_ns,
        try_cast(regexp_extract(main.pulled_message, 'Image size: ([0-9]+) bytes', 1) AS BIGINT) AS image_bytes
    FROM scheduling
    FULL JOIN known USING (pod_uid)
    LEFT JOIN main USING (pod_uid)
    LEFT JOIN life ON life.pod_uid = coalesce(scheduling.pod_uid, known.pod_uid) AND life.container = main.container
    LEFT JOIN pull ON pull.pod_uid = main.pod_uid AND pull.which = 'pull'
    LEFT JOIN pull AS whole ON whole.pod_uid = main.pod_uid AND whole.which = 'whole'
    LEFT JOIN answered ON answered.address = known.pod_ip
    LEFT JOIN served ON served.pod_uid = coalesce(scheduling.pod_uid, known.pod_uid)
)
SELECT
    *,
    scheduled_ns - created_ns AS schedule_wait_ns,
    coalesce(pulling_ns, pulled_ns) - scheduled_ns AS sandbox_ns,
    container_created_ns - pulled_ns AS create_ns,
    started_ns - container_created_ns AS start_taken_ns,
    least(ready_ns, first_sample_ns) - started_ns AS load_ns,
    first_token_ns - least(ready_ns, first_sample_ns) AS idle_ns,
    first_token_ns - coalesce(created_ns, scheduled_ns) AS total_ns
FROM joined
WHERE coalesce(scheduled_ns, started_ns, first_token_ns, ready_ns) IS NOT NULL
