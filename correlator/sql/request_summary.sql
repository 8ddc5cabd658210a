-- All requests of a window in one row: how many, how many failed, and percentiles of their times in ns.
-- parameters: since_ns, until_ns, method
-- within: request 0..3600 s
SELECT count(*) AS requests,
    count(*) FILTER (status >= 400 OR grpc_status > 0 OR ended_by = 'abort' OR (status IS NULL AND NOT open)) AS failed,
    count(*) FILTER (open) AS open,
    min(start_ns) AS first_ns, max(start_ns) AS last_ns,
    quantile_cont(ttft_ns, 0.5) AS ttft_p50_ns, quantile_cont(ttft_ns, 0.95) AS ttft_p95_ns, quantile_cont(ttft_ns, 0.99) AS ttft_p99_ns,
    quantile_cont(duration_ns, 0.5) AS duration_p50_ns, quantile_cont(duration_ns, 0.95) AS duration_p95_ns,
    quantile_cont(duration_ns, 0.99) AS duration_p99_ns,
    quantile_cont((last_chunk_ns - first_body_ns) / nullif(chunks - 1, 0), 0.95) AS chunk_p95_ns,
    quantile_cont(longest_gap_ns, 0.95) AS gap_p95_ns, coalesce(sum(retransmits), 0)::BIGINT AS retransmits,
    count(*) FILTER (evidence = 'exact') AS exact
FROM request
WHERE start_ns >= $since_ns AND start_ns < $until_ns
    AND ($method::VARCHAR = '*' OR coalesce(method, $method::VARCHAR) = $method::VARCHAR)
