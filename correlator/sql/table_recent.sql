-- One table with the rows that it got in a window, and when its newest row happened.
-- parameters: since_ns, until_ns
SELECT 'http_exchange' AS name, count(*) AS rows, max(start_ns) AS newest_ns FROM http_exchange WHERE start_ns >= $since_ns AND start_ns < $until_ns
UNION ALL
SELECT 'span' AS name, count(*) AS rows, max(start_ns) AS newest_ns FROM span WHERE start_ns >= $since_ns AND start_ns < $until_ns
UNION ALL
SELECT 'connection' AS name, count(*) AS rows, max(start_ns) AS newest_ns FROM connection WHERE start_ns >= $since_ns AND start_ns < $until_ns
UNION ALL
SELECT 'syscall' AS name, count(*) AS rows, max(start_ns) AS newest_ns FROM syscall WHERE start_ns >= $since_ns AND start_ns < $until_ns
UNION ALL
SELECT 'engine_step' AS name, count(*) AS rows, max(start_ns) AS newest_ns FROM engine_step WHERE start_ns >= $since_ns AND start_ns < $until_ns
UNION ALL
SELECT 'launch' AS name, count(*) AS rows, max(start_ns) AS newest_ns FROM launch WHERE start_ns >= $since_ns AND start_ns < $until_ns
UNION ALL
SELECT 'gpu_kernel' AS name, count(*) AS rows, max(start_ns) AS newest_ns FROM gpu_kernel WHERE start_ns >= $since_ns AND start_ns < $until_ns
UNION ALL
SELECT 'gpu_sample' AS name, count(*) AS rows, max(time_ns) AS newest_ns FROM gpu_sample WHERE time_ns >= $since_ns AND time_ns < $until_ns
UNION ALL
SELECT 'flow' AS name, count(*) AS rows, max(time_ns) AS newest_ns FROM flow WHERE time_ns >= $since_ns AND time_ns < $until_ns
UNION ALL
SELECT 'loss' AS name, count(*) AS rows, max(start_ns) AS newest_ns FROM loss WHERE start_ns >= $since_ns AND start_ns < $until_ns
UNION ALL
SELECT 'service_state' AS name, count(*) AS rows, max(time_ns) AS newest_ns FROM service_state WHERE time_ns >= $since_ns AND time_ns < $until_ns
UNION ALL
SELECT 'cluster_event' AS name, count(*) AS rows, max(time_ns) AS newest_ns FROM cluster_event WHERE time_ns >= $since_ns AND time_ns < $until_ns
