"""What Kubernetes' objects say, as rows: pods and containers, Events, nodes, GPUs of Dynamic Resource Allocation."""
