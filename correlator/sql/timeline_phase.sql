-- One phase of a request in its engine, as the engine told it.
-- parameters: subjects
SELECT name, class, start_ns, nullif(end_ns, 9223372036854775807) AS end_ns, node, simulated
FROM timeline_slice
WHERE lane = 'phase' AND end_ns > start_ns AND subject IN (SELECT unnest($subjects::VARCHAR[]))
ORDER BY start_ns
LIMIT 200
