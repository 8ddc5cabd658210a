-- How long one GPU ran anything in one interval, as the executions of watched processes tell it: what is known of a GPU without an
-- exporter. `told_by` is `seconds` where collectors told it by the second, summed over the GPU's processes and at most the interval,
-- else `executions`: the union of those on record, of one rank of a recording where there is one. An interval is a 120th of the time
-- that anything is known of: a second at least where seconds tell, else a millisecond. One without a row saw no execution.
-- parameters: since_ns, until_ns
WITH second AS (
    SELECT node, gpu_uuid, start_ns, end_ns, busy_ns, executions, simulated
    FROM gpu_busy
    WHERE end_ns > $since_ns AND start_ns < $until_ns
),
execution AS (
    SELECT node, gpu_uuid, recording_uid, rank, greatest(start_ns, $since_ns) AS from_ns, least(end_ns, $until_ns) AS to_ns, simulated
    FROM gpu_kernel
    -- None that is wanted lasts a minute: so only the files of the window are read.
    WHERE start_ns >= $since_ns - 60_000_000_000 AND start_ns < $until_ns AND end_ns > $since_ns
        AND kind <> 'sync' AND coalesce(validity, 'ok') = 'ok'
        AND gpu_uuid NOT IN (SELECT gpu_uuid FROM second WHERE gpu_uuid IS NOT NULL)
),
known AS (
    SELECT node, gpu_uuid, NULL AS recording_uid, NULL AS rank, 'seconds' AS told_by, start_ns AS from_ns, end_ns AS to_ns,
        busy_ns / (end_ns - start_ns) AS density, executions, simulated
    FROM second
    UNION ALL
    SELECT node, gpu_uuid, recording_uid, rank, 'executions',
        -- What no earlier one covered: where executions overlap, the GPU was busy once.
        greatest(from_ns, coalesce(max(to_ns) OVER earlier, from_ns)), to_ns, 1.0, 1, simulated
    FROM execution
    WINDOW earlier AS (PARTITION BY node, gpu_uuid, recording_uid, rank ORDER BY from_ns, to_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
extent AS (
    SELECT min(from_ns) AS low_ns, greatest((max(to_ns) - min(from_ns)) // 120, if(bool_or(told_by = 'seconds'), 1_000_000_000, 1_000_000)) AS step_ns
    FROM known
),
-- Each piece once an interval that it reaches into; one that others cover counts as an execution alone.
piece AS (
    SELECT *, unnest(range((from_ns - low_ns) // step_ns, greatest((to_ns - 1 - low_ns) // step_ns, (from_ns - low_ns) // step_ns) + 1)) AS place
    FROM known, extent
)
SELECT node, piece.gpu_uuid, any_value(gpu.index) AS index, any_value(gpu.model) AS model, any_value(gpu.pod) AS pod, piece.recording_uid,
    any_value(recording.name) AS recording, piece.rank, told_by, low_ns + place * step_ns AS start_ns, low_ns + (place + 1) * step_ns AS end_ns,
    least(round(sum(greatest(least(to_ns, low_ns + (place + 1) * step_ns) - greatest(from_ns, low_ns + place * step_ns), 0) * density)), step_ns)::BIGINT AS busy_ns,
    sum(executions) FILTER (place = (from_ns - low_ns) // step_ns)::BIGINT AS executions, bool_or(piece.simulated) AS simulated
FROM piece
LEFT JOIN timeline_gpu AS gpu ON gpu.gpu_uuid = piece.gpu_uuid
LEFT JOIN recording ON recording.recording_uid = piece.recording_uid
GROUP BY node, piece.gpu_uuid, piece.recording_uid, piece.rank, told_by, place, low_ns, step_ns
ORDER BY node, index, piece.gpu_uuid, piece.recording_uid, piece.rank, start_ns
