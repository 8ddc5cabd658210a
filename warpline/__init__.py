"""Warpline follows one LLM request from the client's socket to the GPU kernel."""

__version__ = "0.1.0"
