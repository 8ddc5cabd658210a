-- One engine of which the step ledger has members in one stretch of time, or one process that tells of steps there: a worker
-- tells of the steps that its ranks ran; they are its engine's.
-- within: step_member 5 s, engine_step 5 s
SELECT DISTINCT hash(process_uid) AS code, process_uid, time_ns // $stretch_ns AS stretch, false AS teller
FROM step_member
WHERE time_ns >= $since_ns - 5000000000 AND time_ns < $until_ns + 5000000000
UNION ALL
SELECT DISTINCT hash(process_uid), process_uid, start_ns // $stretch_ns, true
FROM engine_step
WHERE start_ns >= $since_ns - 5000000000 AND start_ns < $until_ns + 5000000000 AND recording_uid IS NULL
