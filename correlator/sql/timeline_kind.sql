-- One name on one row of a timeline (a lane, such as a CUDA stream or a thread, at one nesting depth): how many bars have it, how long they last.
-- parameters: since_ns, until_ns, recording, processes, subjects
WITH bar AS (
    SELECT lane, node, process_uid, unit, number, rank, depth, name, class, simulated,
        greatest(start_ns, $since_ns) AS start_ns, least(end_ns, $until_ns) AS end_ns,
        hash(lane, node, process_uid, unit, number, rank, depth) AS row_id, hash(name, class) AS name_id
    FROM timeline_slice
    WHERE start_ns < $until_ns AND end_ns >= $since_ns AND (end_ns > $since_ns OR start_ns = end_ns)
        AND coalesce(recording_uid, '-') = $recording::VARCHAR
        AND (len($processes::VARCHAR[]) = 0 OR process_uid IS NULL OR process_uid IN (SELECT unnest($processes::VARCHAR[])))
        AND (len($subjects::VARCHAR[]) = 0 OR subject IS NULL OR subject IN (SELECT unnest($subjects::VARCHAR[])))
)
SELECT row_id, name_id, any_value(lane) AS lane, any_value(node) AS node, any_value(process_uid) AS process_uid, any_value(unit) AS unit,
    any_value(number) AS number, any_value(rank) AS rank, any_value(depth) AS depth, any_value(name) AS name, any_value(class) AS class,
    count(*) AS bars, sum(end_ns - start_ns)::BIGINT AS busy_ns, max(end_ns - start_ns) AS longest_ns,
    min(start_ns) AS start_ns, max(end_ns) AS end_ns, bool_or(simulated) AS simulated
FROM bar
GROUP BY row_id, name_id
