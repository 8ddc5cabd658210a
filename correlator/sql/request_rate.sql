-- Requests of one interval: how many began in it, how many failed, and percentiles of their times in ns.
-- parameters: since_ns, until_ns, method, interval_ns
-- within: request 0..3600 s
SELECT start_ns // $interval_ns::BIGINT * $interval_ns::BIGINT AS start_ns, count(*) AS requests,
    count(*) FILTER (status >= 400 OR grpc_status > 0 OR ended_by = 'abort') AS failed,
    quantile_cont(ttft_ns, 0.5) AS ttft_p50_ns, quantile_cont(ttft_ns, 0.95) AS ttft_p95_ns, quantile_cont(ttft_ns, 0.99) AS ttft_p99_ns,
    quantile_cont(duration_ns, 0.5) AS duration_p50_ns, quantile_cont(duration_ns, 0.95) AS duration_p95_ns,
    quantile_cont(duration_ns, 0.99) AS duration_p99_ns
FROM request
WHERE request.start_ns >= $since_ns AND request.start_ns < $until_ns
    AND ($method::VARCHAR = '*' OR coalesce(request.method, $method::VARCHAR) = $method::VARCHAR)
GROUP BY 1
ORDER BY 1
