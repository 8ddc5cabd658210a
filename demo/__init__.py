"""The workload that the demo, the tests and the benches watch: API server, engine, client load."""
