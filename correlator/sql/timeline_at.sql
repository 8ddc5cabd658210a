-- One bar of a timeline near a moment, exactly as it was measured: the ones that hold the moment first, the shortest of them before.
-- parameters: row_id, at_ns, slack_ns, recording, processes, subjects
SELECT lane, node, process_uid, unit, number, rank, depth, start_ns, nullif(end_ns, 9223372036854775807) AS end_ns,
    name, class, step_ordinal, session, correlation_id, subject, simulated
FROM timeline_slice
WHERE start_ns <= $at_ns::BIGINT + $slack_ns::BIGINT AND end_ns >= $at_ns::BIGINT - $slack_ns::BIGINT
    AND hash(lane, node, process_uid, unit, number, rank, depth) = $row_id::UBIGINT
    AND coalesce(recording_uid, '-') = $recording::VARCHAR
    AND (len($processes::VARCHAR[]) = 0 OR process_uid IS NULL OR process_uid IN (SELECT unnest($processes::VARCHAR[])))
    AND (len($subjects::VARCHAR[]) = 0 OR subject IS NULL OR subject IN (SELECT unnest($subjects::VARCHAR[])))
ORDER BY NOT (start_ns <= $at_ns::BIGINT AND end_ns > $at_ns::BIGINT), end_ns - start_ns, abs(start_ns - $at_ns::BIGINT)
LIMIT 1
