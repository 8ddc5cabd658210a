-- One bar that is tied to another by CUPTI's correlation id: the executions of a launch, the launch of an execution.
-- parameters: process_uid, session, correlation_id, recording
SELECT hash(lane, node, process_uid, unit, number, rank, depth) AS row_id, lane, start_ns, end_ns, name, unit, number
FROM timeline_slice
WHERE lane IN ('launch', 'kernel') AND process_uid = $process_uid AND correlation_id = $correlation_id
    AND coalesce(session, -1) = $session::BIGINT AND coalesce(recording_uid, '-') = $recording::VARCHAR
ORDER BY start_ns
LIMIT 256
