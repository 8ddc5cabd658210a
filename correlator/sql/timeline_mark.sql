-- One time at which a GPU was held back or failed: see the macro `gpu_marks`.
-- It happened in (start_ns, end_ns]. `amount` is in ns for throttling, the code for an Xid, a count for errors.
-- parameters: since_ns, until_ns, around_ns, nodes
SELECT node, gpu_uuid, gpu_instance, index, kind, what, start_ns, end_ns, amount, simulated
FROM gpu_marks($since_ns - $around_ns, $until_ns + $around_ns, $nodes::VARCHAR[])
WHERE start_ns < $until_ns AND end_ns >= $since_ns
ORDER BY node, gpu_uuid, gpu_instance, kind, start_ns
LIMIT 2000
