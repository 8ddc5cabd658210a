-- One process that a timeline may name.
-- parameters: processes
SELECT process_uid, arg_max(executable, start_ns) AS executable, arg_max(pod, start_ns) AS pod, arg_max(role, start_ns) AS role,
    arg_max(pid, start_ns) AS pid
FROM process
WHERE process_uid IN (SELECT unnest($processes::VARCHAR[]))
GROUP BY process_uid
