-- One row of a timeline: a lane (a CUDA stream, a thread, one side of an exchange) at one nesting depth.
-- parameters: since_ns, until_ns, recording, processes, subjects
WITH bar AS (
    SELECT lane, node, process_uid, unit, number, rank, depth, simulated,
        greatest(start_ns, $since_ns) AS start_ns, least(end_ns, $until_ns) AS end_ns
    FROM timeline_slice
    WHERE start_ns < $until_ns AND end_ns >= $since_ns AND (end_ns > $since_ns OR start_ns = end_ns)
        AND coalesce(recording_uid, '-') = $recording::VARCHAR
        AND (len($processes::VARCHAR[]) = 0 OR process_uid IS NULL OR process_uid IN (SELECT unnest($processes::VARCHAR[])))
        AND (len($subjects::VARCHAR[]) = 0 OR subject IS NULL OR subject IN (SELECT unnest($subjects::VARCHAR[])))
)
SELECT hash(lane, node, process_uid, unit, number, rank, depth) AS row_id,
    lane, node, process_uid, unit, number, rank, depth,
    count(*) AS bars, sum(end_ns - start_ns)::BIGINT AS busy_ns, max(end_ns - start_ns) AS longest_ns,
    min(start_ns) AS start_ns, max(end_ns) AS end_ns, bool_or(simulated) AS simulated
FROM bar
GROUP BY lane, node, process_uid, unit, number, rank, depth
ORDER BY lane, node, process_uid, unit, number, rank, depth
