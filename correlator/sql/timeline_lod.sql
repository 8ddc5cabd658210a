-- What one row of a timeline shows in one bucket of time: a bar at least a bucket long by itself, all shorter ones together.
-- Ends are clipped to the window, so that counts and busy time of all rows sum to those of the window, exactly.
-- parameters: since_ns, until_ns, bucket_ns, recording, processes, subjects, steps
WITH bar AS (
    SELECT hash(lane, node, process_uid, unit, number, rank, depth) AS row_id,
        greatest(start_ns, $since_ns) AS start_ns, least(end_ns, $until_ns) AS end_ns,
        name, class,
        CASE WHEN len($steps::BIGINT[]) = 0 OR step_ordinal IS NULL THEN 0
            WHEN step_ordinal IN (SELECT unnest($steps::BIGINT[])) THEN 1 ELSE 2 END AS own
    FROM timeline_slice
    WHERE start_ns < $until_ns AND end_ns >= $since_ns AND (end_ns > $since_ns OR start_ns = end_ns)
        AND coalesce(recording_uid, '-') = $recording::VARCHAR
        AND (len($processes::VARCHAR[]) = 0 OR process_uid IS NULL OR process_uid IN (SELECT unnest($processes::VARCHAR[])))
        AND (len($subjects::VARCHAR[]) = 0 OR subject IS NULL OR subject IN (SELECT unnest($subjects::VARCHAR[])))
)
SELECT row_id, min(start_ns) AS start_ns, max(end_ns) AS end_ns,
    arg_max(struct_pack(name := name, class := class, own := own), end_ns - start_ns) AS longest,
    count(*) AS bars, sum(end_ns - start_ns)::BIGINT AS busy_ns, bool_or(end_ns - start_ns >= $bucket_ns) AS whole
FROM bar
GROUP BY row_id, (start_ns - $since_ns) // $bucket_ns, CASE WHEN end_ns - start_ns >= $bucket_ns THEN start_ns END
