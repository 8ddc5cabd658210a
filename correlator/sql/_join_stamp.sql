-- One stretch of time in which launches of one process named their steps.
-- within: launch 60 s, gpu_kernel 60 s
SELECT DISTINCT hash(process_uid, recording_uid) AS process, start_ns // $stretch_ns AS stretch
FROM launch
WHERE start_ns >= $since_ns - 60000000000 AND start_ns < $until_ns AND step_ordinal IS NOT NULL
UNION
SELECT hash(process_uid, recording_uid), start_ns // $stretch_ns
FROM gpu_kernel
WHERE start_ns >= $since_ns - 60000000000 AND start_ns < $until_ns AND step_ordinal IS NOT NULL
