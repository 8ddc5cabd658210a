-- One reading of a node's wall clock beside node time: what has to be taken off the wall's time there.
-- within: clock_pair 600 s
SELECT node, time_ns, realtime_ns - time_ns AS ahead_ns
FROM clock_pair
WHERE time_ns >= $since_ns - 600000000000 AND time_ns < $until_ns + 600000000000
ORDER BY node, time_ns
