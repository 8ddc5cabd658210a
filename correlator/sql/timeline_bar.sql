-- One bar of a timeline in numbers: its row, its times from the window's start (clipped to the window), its name, and whose step it is of.
-- `own` is 0 where no step is known, 1 for a step that the request took part in, 2 for another's.
-- Only bars that start in [after_ns, before_ns) are meant, of those that overlap the window.
-- parameters: since_ns, until_ns, after_ns, before_ns, recording, processes, subjects, steps
SELECT hash(lane, node, process_uid, unit, number, rank, depth) AS row_id, hash(name, class) AS name_id,
    greatest(start_ns, $since_ns) - $since_ns AS start_ns, least(end_ns, $until_ns) - $since_ns AS end_ns,
    (CASE WHEN len($steps::BIGINT[]) = 0 OR step_ordinal IS NULL THEN 0
        WHEN step_ordinal IN (SELECT unnest($steps::BIGINT[])) THEN 1 ELSE 2 END)::UTINYINT AS own
FROM timeline_slice
WHERE start_ns >= $after_ns AND start_ns < $before_ns
    AND start_ns < $until_ns AND end_ns >= $since_ns AND (end_ns > $since_ns OR start_ns = end_ns)
    AND coalesce(recording_uid, '-') = $recording::VARCHAR
    AND (len($processes::VARCHAR[]) = 0 OR process_uid IS NULL OR process_uid IN (SELECT unnest($processes::VARCHAR[])))
    AND (len($subjects::VARCHAR[]) = 0 OR subject IS NULL OR subject IN (SELECT unnest($subjects::VARCHAR[])))
