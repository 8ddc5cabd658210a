"""What sources share that speak to other programs: Prometheus text, JSON lines, gRPC messages, files that rotate."""
