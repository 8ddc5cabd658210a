-- One request in one batch of Triton's dynamic batcher: the backend stamps all requests of one execution alike, so those of one
-- model whose four compute stamps are the same to the ns were one batch (core's ReportStatistics, called by each backend for
-- each request with one set of times). From Triton's trace file, where its steady clock was that of this boot of its node
-- (`wall` false), or from its OpenTelemetry spans (`wall` true). A name that several requests bear gets their number behind it.
-- within: engine_phase 0 s
WITH stamp AS (
    SELECT details ->> 'node' AS node, recording_uid AS scope, details ->> 'id' AS number, request_id, model, phase, start_ns, end_ns,
        false AS wall
    FROM engine_phase
    WHERE start_ns >= $since_ns AND start_ns < $until_ns AND details ->> 'node' IS NOT NULL
    UNION ALL
    SELECT node, 'spans', concat(trace_id, '/', span_id), request_id, model, phase, start_ns, end_ns, true
    FROM engine_span_phase
    WHERE engine = 'triton' AND start_ns >= $since_ns AND start_ns < $until_ns
),
computed AS (
    SELECT node, scope, number, any_value(request_id) AS request_id, any_value(model) AS model, any_value(wall) AS wall,
        min(start_ns) FILTER (phase = 'compute_input') AS start_ns,
        min(start_ns) FILTER (phase = 'compute') AS input_end_ns,
        max(end_ns) FILTER (phase = 'compute') AS output_start_ns,
        max(end_ns) FILTER (phase = 'compute_output') AS end_ns
    FROM stamp
    WHERE phase IN ('compute_input', 'compute', 'compute_output')
    GROUP BY node, scope, number
),
named AS (
    SELECT *, CASE WHEN request_id IS NULL THEN number
        WHEN count(*) OVER (PARTITION BY scope, model, request_id) > 1 THEN concat(request_id, '#', number) ELSE request_id END AS internal_id
    FROM computed
    WHERE start_ns IS NOT NULL AND input_end_ns IS NOT NULL AND output_start_ns IS NOT NULL AND end_ns IS NOT NULL
)
SELECT DISTINCT node, wall, concat_ws('/', scope, model, start_ns, input_end_ns, output_start_ns, end_ns) AS batch, start_ns, end_ns, internal_id
FROM named
ORDER BY start_ns, batch, internal_id
