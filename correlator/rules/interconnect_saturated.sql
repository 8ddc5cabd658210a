-- {metric} ({part}) of GPU {gpu_uuid} on {node} runs at {value:.1f} GB/s.
-- severity: warning
-- for: 30s
-- threshold: most_pcie_gb_s = 25; about 80 % of PCIe 4.0 x16 in one direction: set it to your machines' own
-- threshold: most_nvlink_gb_s = 360; about 80 % of NVLink 4 in one direction: set it to your machines' own
-- missing: no_data
-- runbook: look at KV transfers and at weights that spill to the host
WITH rate AS (
    SELECT node, gpu_uuid, metric, part, AVG(value) / 1e9 AS gb_s FROM gpu_sample
    WHERE time_ns > $now_ns - 30000000000 AND time_ns <= $now_ns AND part IN ('transmit', 'receive')
        AND metric IN ('warpline.gpu.pcie.throughput', 'warpline.gpu.nvlink.throughput')
    GROUP BY ALL
)
SELECT node, gpu_uuid, metric, part, gb_s AS value,
    gb_s > CASE WHEN metric LIKE '%pcie%' THEN $most_pcie_gb_s ELSE $most_nvlink_gb_s END AS firing
FROM rate
