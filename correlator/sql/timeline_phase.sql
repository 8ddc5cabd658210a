-- One phase of a request in its engine, as the engine told it, or one wait of it there for a KV cache: these lie inside phases.
-- parameters: subjects
SELECT if(lane = 'phase', name, 'KV transfer') AS name, class, start_ns, nullif(end_ns, 9223372036854775807) AS end_ns, node, simulated
FROM timeline_slice
WHERE (lane = 'phase' OR (lane = 'kv_transfer' AND unit = 'received')) AND end_ns > start_ns AND subject IN (SELECT unnest($subjects::VARCHAR[]))
ORDER BY start_ns
LIMIT 200
