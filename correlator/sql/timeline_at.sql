-- One bar of a timeline near a moment, exactly as it was measured: the ones that hold the moment first, the shortest of them before.
-- parameters: row_id, at_ns, slack_ns, recording, processes, subjects
SELECT lane, node, process_uid, unit, number, rank, depth, start_ns, nullif(end_ns, 9223372036854775807) AS end_ns,
    name, class, step_ordinal, session, correlation_id, subject, simulated
FROM timeline_slice
WHERE start_ns <= $at_ns + $slack_ns AND end_ns >= $at_ns - $slack_ns
    AND hash(lane, node, process_uid, unit, number, rank, depth) = $row_id::UBIGINT
    AND recording_uid IS NOT DISTINCT FROM $recording::VARCHAR
    AND ($processes::VARCHAR[] IS NULL OR process_uid IS NULL OR process_uid IN (SELECT unnest($processes::VARCHAR[])))
    AND ($subjects::VARCHAR[] IS NULL OR subject IS NULL OR subject IN (SELECT unnest($subjects::VARCHAR[])))
ORDER BY NOT (start_ns <= $at_ns AND end_ns > $at_ns), end_ns - start_ns, abs(start_ns - $at_ns)
LIMIT 1
