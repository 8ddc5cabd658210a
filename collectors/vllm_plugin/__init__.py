"""The distribution `warpline-vllm`, for the engine's environment; `warpline_vllm` needs nothing of Warpline."""
