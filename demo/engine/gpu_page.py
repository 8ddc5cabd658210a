"""The page that a DCGM exporter would serve for the double: everything on it follows from the double's own state."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from typing import Any

UUID = "GPU-77617270-6c69-6e65-2d64-6f75626c65" + os.environ.get("WARPLINE_DOUBLE_GPU", "!")[:1].encode().hex()
NAME = "Warpline CUDA double (simulated)"
_FULL_CLOCK_MHZ, _MEMORY_CLOCK_MHZ = 1980, 2619
_IDLE_W, _BUSY_W = 70.0, 560.0
_MEMORY_MIB, _WEIGHTS_MIB = 81559, 15000
_THERMAL_SLOWDOWN = 0x40
_TTFT_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Some of vLLM's."""


class GpuPage:
    """Remembers the last reading: utilisation, power and energy are of the time since then."""

    def __init__(self) -> None:
        """Begin now."""
        self._at_ns, self._busy_ns = time.monotonic_ns(), 0
        self._energy_mj = 0.0
        self._busy_ratio = 0.0
        self._throttled_ns = 0
        self._moved = {"RX": 0, "TX": 0}
        self.taken_mib = 0
        """Memory that somebody else has on the device."""

    def render(self, state: dict[str, Any]) -> str:
        """Return the page in Prometheus' text format."""
        now = time.monotonic_ns()
        elapsed = max(now - self._at_ns, 1)
        self._busy_ratio = min(1.0, (state["busy_ns"] - self._busy_ns) / elapsed)
        clock = float(state["clock_ratio"])
        # Dynamic power grows with the clock and the square of its voltage, which follows the clock.
        power_w = _IDLE_W + _BUSY_W * self._busy_ratio * clock**3
        self._energy_mj += power_w * elapsed / 1e6
        self._at_ns, self._busy_ns = now, state["busy_ns"]
        self._throttled_ns += elapsed if clock < 1 else 0
        reserved = (_MEMORY_MIB - _WEIGHTS_MIB) * 0.9
        used = min(_WEIGHTS_MIB + state["kv_used_ratio"] * reserved + self.taken_mib, _MEMORY_MIB)
        moved = {"RX": state["received_bytes"], "TX": state["sent_bytes"]}
        rates = {way: (total - self._moved[way]) / (elapsed / 1e9) for way, total in moved.items()}
        self._moved = moved
        readings = {
            "DCGM_FI_DEV_SM_CLOCK": ("gauge", clock * _FULL_CLOCK_MHZ),
            "DCGM_FI_DEV_MEM_CLOCK": ("gauge", _MEMORY_CLOCK_MHZ),
            "DCGM_FI_DEV_GPU_TEMP": ("gauge", 35 + 45 * self._busy_ratio + (12 if clock < 1 else 0)),
            "DCGM_FI_DEV_POWER_USAGE": ("gauge", power_w),
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("counter", self._energy_mj),
            "DCGM_FI_DEV_GPU_UTIL": ("gauge", 100 * self._busy_ratio),
            "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("gauge", self._busy_ratio),
            # A kernel of the double has the whole device: while one runs, every SM is active.
            "DCGM_FI_PROF_SM_ACTIVE": ("gauge", self._busy_ratio),
            # By the roofline a step of decodes reads weights all the time, and computes meanwhile.
            "DCGM_FI_PROF_DRAM_ACTIVE": ("gauge", 0.8 * self._busy_ratio),
            "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("gauge", 0.6 * self._busy_ratio),
            "DCGM_FI_DEV_FB_USED": ("gauge", used),
            "DCGM_FI_DEV_FB_FREE": ("gauge", _MEMORY_MIB - used),
            "DCGM_FI_PROF_PCIE_RX_BYTES": ("gauge", rates["RX"]),
            "DCGM_FI_PROF_PCIE_TX_BYTES": ("gauge", rates["TX"]),
            "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": ("gauge", _THERMAL_SLOWDOWN if clock < 1 else 0),
            "DCGM_FI_DEV_THERMAL_VIOLATION": ("counter", self._throttled_ns),
            "DCGM_FI_DEV_XID_ERRORS": ("gauge", state["xid"]),
            "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": ("counter", state["memory_errors"]),
        }
        labels = f'gpu="0",UUID="{UUID}",device="nvidia0",modelName="{NAME}",Hostname="{socket.gethostname()}"'
        lines = []
        for name, (kind, value) in readings.items():
            lines += [
                f"# HELP {name} Of the simulated GPU.",
                f"# TYPE {name} {kind}",
                f"{name}{{{labels}}} {value:.6f}",
            ]
        return "\n".join(lines) + "\n"


@dataclass
class Fetched:
    """KV cache that was fetched from prefill engines so far."""

    count: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass
class Served:
    """What became of requests so far, as vLLM counts it."""

    finished: int = 0
    first_tokens: int = 0
    ttft_s: float = 0.0
    within: dict[float, int] = field(default_factory=lambda: dict.fromkeys(_TTFT_BUCKETS_S, 0))
    """Requests whose first token came within so many seconds."""

    def first_token(self, after_s: float) -> None:
        """Note a request's first token."""
        self.first_tokens += 1
        self.ttft_s += after_s
        for bound in self.within:
            self.within[bound] += after_s <= bound


def engine_page(state: dict[str, Any], fetched: Fetched, served: Served) -> str:
    """Return the engine's own metrics under vLLM's names; those of NIXL where KV cache was `fetched`."""
    readings = {
        "vllm:num_requests_running": state["running"],
        "vllm:num_requests_waiting": state["waiting"],
        "vllm:kv_cache_usage_perc": state["kv_used_ratio"],
        "vllm:num_preemptions_total": state["preemptions"],
        "vllm:request_success_total": served.finished,
    }
    if fetched.count:
        readings |= {
            "vllm:nixl_xfer_time_seconds_count": fetched.count,
            "vllm:nixl_xfer_time_seconds_sum": fetched.seconds,
            "vllm:nixl_bytes_transferred_count": fetched.count,
            "vllm:nixl_bytes_transferred_sum": fetched.bytes,
        }
    labels = 'model_name="warpline-double (simulated)",engine="0"'
    lines = ["# TYPE vllm:time_to_first_token_seconds histogram"]
    for bound, count in (served.within | {float("inf"): served.first_tokens}).items():
        le = "+Inf" if bound == float("inf") else f"{bound}"
        lines.append(f'vllm:time_to_first_token_seconds_bucket{{{labels},le="{le}"}} {count}')
    lines.append(f"vllm:time_to_first_token_seconds_sum{{{labels}}} {served.ttft_s}")
    lines.append(f"vllm:time_to_first_token_seconds_count{{{labels}}} {served.first_tokens}")
    for name, value in readings.items():
        kind = "counter" if name.endswith(("_total", "_count", "_sum")) else "gauge"
        lines += [f"# TYPE {name} {kind}", f"{name}{{{labels}}} {value}"]
    return "\n".join(lines) + "\n"
