-- One bar of a timeline whose name holds a text, the longest first.
-- parameters: text, since_ns, until_ns, recording, processes, subjects
SELECT hash(lane, node, process_uid, unit, number, rank, depth) AS row_id, lane, start_ns, nullif(end_ns, 9223372036854775807) AS end_ns, name,
    count(*) OVER () AS found
FROM timeline_slice
WHERE start_ns < $until_ns AND end_ns >= $since_ns AND contains(lower(name), lower($text))
    AND coalesce(recording_uid, '-') = $recording::VARCHAR
    AND (len($processes::VARCHAR[]) = 0 OR process_uid IS NULL OR process_uid IN (SELECT unnest($processes::VARCHAR[])))
    AND (len($subjects::VARCHAR[]) = 0 OR subject IS NULL OR subject IN (SELECT unnest($subjects::VARCHAR[])))
ORDER BY least(end_ns, $until_ns) - start_ns DESC
LIMIT 200
