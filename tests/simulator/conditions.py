"""The conditions that accuracy is told for: plans of vllm_engine.py, by name. Seeds choose the place in the trace.

Rates and lengths are such that the mean batch is that of the name or near it. Recordings are of `RECORDED` seed alone.
"""

from __future__ import annotations

from typing import Any

RECORDED = 11
_LONG = {"prompt_times": 0.25, "output_times": 1.5, "rate": 60.0, "requests": 90}
_TIGHT = {"prompt_times": 0.25, "output_times": 1.5, "rate": 60.0, "requests": 100}

CONDITIONS: dict[str, dict[str, Any]] = {
    "batch_3": {"rate": 5.5, "requests": 30, "output_times": 0.6},
    "batch_7_synchronous": {"rate": 11.0, "requests": 40, "output_times": 0.6, "asynchronous": False},
    "batch_20": {"rate": 18.0, "requests": 70, "output_times": 0.6},
    "batch_50": _LONG,
    "batch_107": {"prompt_times": 0.1, "rate": 900.0, "requests": 435},
    "long_prompts": {"trace": "azure_code", "rate": 10.0, "requests": 80, "budget": 1024},
    "whole_prompts": {"trace": "azure_code", "rate": 8.0, "requests": 70, "chunked": False},
    "prefix_cache": {"trace": "mooncake", "rate": 6.0, "requests": 40, "output_times": 0.3},
    "no_prefix_cache": {"trace": "mooncake", "rate": 4.0, "requests": 30, "output_times": 0.3, "prefix_cache": False},
    "drafts": {"rate": 12.0, "requests": 40, "drafts": 3, "asynchronous": False},
    "preempted_some": {**_TIGHT, "blocks": 1500},
    "preempted_heavily": {**_TIGHT, "blocks": 900},
    "preempted_synchronous": {**_TIGHT, "blocks": 900, "asynchronous": False},
    "split_prefill": {"rate": 8.0, "requests": 60, "role": "prefill", "most_prompt": 4000},
    "split_decode": {"rate": 12.0, "requests": 35, "role": "decode", "most_prompt": 4000, "output_times": 0.6},
    "totals_logged": {"rate": 14.0, "requests": 30, "output_times": 0.5, "totals": True},
}
