"""A model server of real processes: HTTP, ZMQ with vLLM's message layout, continuous batching, CUDA calls on the double."""

MODEL = "warpline-double (simulated)"
