"""What the fields of dcgm-exporter and of AMD's device-metrics-exporter mean: metric, part, factor to the base unit.

Names of DCGM are those of dcgm_fields.h without `DCGM_FI_`, both before and after the renaming of DCGM 4.6 (field ids did
not change then, nor did units). Units are the exporter's own help texts and the field's description. The metric is the
semantic convention's (`hw.*`, development) where there is one, else `warpline.gpu.*`.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = float(1 << 20)
KIB = 1024.0
PERCENT = 0.01
MHZ = 1e6


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a field measures. `per_instance` is False where a MIG instance's row repeats the whole device's value."""

    metric: str
    part: str | None = None
    factor: float = 1.0
    monotonic: bool | None = False
    """None where exporters disagree on the type: then only what was observed decides."""
    per_instance: bool = False


def _table(*rows: tuple[str, Meaning]) -> dict[str, Meaning]:
    return {name: meaning for names, meaning in rows for name in names.split()}


def _count(metric: str, part: str | None = None) -> Meaning:
    return Meaning(metric, part, 1.0, True)


def _busy(part: str, factor: float = 1.0) -> Meaning:
    return Meaning("warpline.gpu.pipe.active", part, factor, False, True)


DCGM = _table(
    ("DEV_GPU_UTIL DEV_GPU_UTIL_RATIO", Meaning("hw.gpu.utilization", "general", PERCENT)),
    ("DEV_ENC_UTIL", Meaning("hw.gpu.utilization", "encoder", PERCENT)),
    ("DEV_DEC_UTIL", Meaning("hw.gpu.utilization", "decoder", PERCENT)),
    ("DEV_MEM_COPY_UTIL", Meaning("warpline.gpu.memory.copy.utilization", None, PERCENT)),
    ("DEV_FB_USED", Meaning("hw.gpu.memory.usage", None, MIB, False, True)),
    ("DEV_FB_TOTAL", Meaning("hw.gpu.memory.limit", None, MIB, False, True)),
    ("DEV_FB_FREE", Meaning("warpline.gpu.memory.free", None, MIB, False, True)),
    ("DEV_FB_RESERVED", Meaning("warpline.gpu.memory.reserved", None, MIB, False, True)),
    # Named a percentage before 4.6, and 0-1 all the same.
    ("DEV_FB_USED_PERCENT DEV_FB_USED_RATIO", Meaning("hw.gpu.memory.utilization", None, 1.0, False, True)),
    ("DEV_POWER_USAGE DEV_BOARD_POWER_WATTS", Meaning("hw.power")),
    ("DEV_POWER_USAGE_INSTANT DEV_BOARD_POWER_RAW_WATTS", Meaning("warpline.gpu.power.instant")),
    (
        "DEV_POWER_MGMT_LIMIT DEV_BOARD_POWER_LIMIT_REQUESTED_WATTS",
        Meaning("warpline.gpu.power.limit", "requested"),
    ),
    (
        "DEV_ENFORCED_POWER_LIMIT DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS",
        Meaning("warpline.gpu.power.limit", "enforced"),
    ),
    ("DEV_TOTAL_ENERGY_CONSUMPTION", Meaning("hw.energy", None, 1e-3, True)),
    ("DEV_GPU_TEMP DEV_GPU_TEMP_CELSIUS", Meaning("hw.temperature", "gpu")),
    ("DEV_MEMORY_TEMP DEV_MEMORY_TEMP_CELSIUS", Meaning("hw.temperature", "memory")),
    ("DEV_SLOWDOWN_TEMP DEV_GPU_TEMP_SLOWDOWN_CELSIUS", Meaning("hw.temperature.limit", "slowdown")),
    ("DEV_SHUTDOWN_TEMP DEV_GPU_TEMP_SHUTDOWN_CELSIUS", Meaning("hw.temperature.limit", "shutdown")),
    ("DEV_SM_CLOCK", Meaning("warpline.gpu.clock", "sm", MHZ)),
    ("DEV_MEM_CLOCK", Meaning("warpline.gpu.clock", "memory", MHZ)),
    ("DEV_VIDEO_CLOCK", Meaning("warpline.gpu.clock", "video", MHZ)),
    ("DEV_CLOCK_THROTTLE_REASONS DEV_CLOCKS_EVENT_REASONS", Meaning("warpline.gpu.clock.reasons")),
    ("DEV_PSTATE DEV_GPU_PSTATE", Meaning("warpline.gpu.performance.state")),
    # The last code seen since the driver was loaded, 0 none: it stays, so only a change of it is news.
    ("DEV_XID_ERRORS DEV_XID_ERROR", Meaning("warpline.gpu.xid.last")),
    ("DEV_PCIE_REPLAY_COUNTER DEV_PCIE_REPLAY_TOTAL", _count("hw.errors", "pcie_replay")),
    (
        "DEV_UNCORRECTABLE_REMAPPED_ROWS DEV_ROW_REMAP_UNCORRECTABLE_TOTAL",
        _count("hw.errors", "remapped_rows_uncorrectable"),
    ),
    (
        "DEV_CORRECTABLE_REMAPPED_ROWS DEV_ROW_REMAP_CORRECTABLE_TOTAL",
        _count("hw.errors", "remapped_rows_correctable"),
    ),
    ("DEV_ROW_REMAP_FAILURE DEV_ROW_REMAP_FAILED", Meaning("warpline.gpu.row_remap.failed")),
    ("DEV_ECC_SBE_VOL_TOTAL", _count("hw.errors", "ecc_single_volatile")),
    ("DEV_ECC_DBE_VOL_TOTAL", _count("hw.errors", "ecc_double_volatile")),
    ("DEV_ECC_SBE_AGG_TOTAL", _count("hw.errors", "ecc_single_aggregate")),
    ("DEV_ECC_DBE_AGG_TOTAL", _count("hw.errors", "ecc_double_aggregate")),
    ("DEV_RETIRED_SBE DEV_PAGE_RETIRED_SBE_TOTAL", _count("hw.errors", "retired_pages_single")),
    ("DEV_RETIRED_DBE DEV_PAGE_RETIRED_DBE_TOTAL", _count("hw.errors", "retired_pages_double")),
    ("DEV_POWER_VIOLATION", Meaning("warpline.gpu.throttled", "power", 1e-9, True)),
    ("DEV_THERMAL_VIOLATION", Meaning("warpline.gpu.throttled", "thermal", 1e-9, True)),
    ("DEV_SYNC_BOOST_VIOLATION", Meaning("warpline.gpu.throttled", "sync_boost", 1e-9, True)),
    ("DEV_BOARD_LIMIT_VIOLATION", Meaning("warpline.gpu.throttled", "board_limit", 1e-9, True)),
    ("DEV_LOW_UTIL_VIOLATION", Meaning("warpline.gpu.throttled", "low_utilization", 1e-9, True)),
    ("DEV_RELIABILITY_VIOLATION", Meaning("warpline.gpu.throttled", "reliability", 1e-9, True)),
    # Typed counter, and by other versions gauge; in no unit that its sources agree on: kept as told.
    (
        "DEV_NVLINK_BANDWIDTH_TOTAL DEV_NVLINK_THROUGHPUT_TOTAL",
        Meaning("warpline.gpu.nvlink.throughput", None, 1.0, None),
    ),
    ("PROF_GR_ENGINE_ACTIVE PROF_GR_ENGINE_UTIL_RATIO", _busy("graphics")),
    ("PROF_SM_ACTIVE PROF_SM_UTIL_RATIO", _busy("sm")),
    (
        "PROF_SM_OCCUPANCY PROF_SM_OCCUPANCY_RATIO",
        Meaning("warpline.gpu.sm.occupancy", None, 1.0, False, True),
    ),
    ("PROF_PIPE_TENSOR_ACTIVE PROF_TENSOR_UTIL_RATIO", _busy("tensor")),
    ("PROF_DRAM_ACTIVE PROF_DRAM_UTIL_RATIO", _busy("memory")),
    ("PROF_PIPE_FP64_ACTIVE PROF_FP64_UTIL_RATIO", _busy("fp64")),
    ("PROF_PIPE_FP32_ACTIVE PROF_FP32_UTIL_RATIO", _busy("fp32")),
    ("PROF_PIPE_FP16_ACTIVE PROF_FP16_UTIL_RATIO", _busy("fp16")),
    ("PROF_PIPE_INT_ACTIVE PROF_INT_UTIL_RATIO", _busy("int")),
    # Bytes per second by default, though some sites type them as counters: observed, as above. TX leaves the GPU.
    ("PROF_PCIE_TX_BYTES", Meaning("warpline.gpu.pcie.throughput", "transmit", 1.0, None, True)),
    ("PROF_PCIE_RX_BYTES", Meaning("warpline.gpu.pcie.throughput", "receive", 1.0, None, True)),
    ("PROF_NVLINK_TX_BYTES", Meaning("warpline.gpu.nvlink.throughput", "transmit", 1.0, None, True)),
    ("PROF_NVLINK_RX_BYTES", Meaning("warpline.gpu.nvlink.throughput", "receive", 1.0, None, True)),
    ("PROF_PCIE_TX_BYTES_TOTAL", _count("hw.gpu.io", "transmit")),
    ("PROF_PCIE_RX_BYTES_TOTAL", _count("hw.gpu.io", "receive")),
    ("DEV_VGPU_LICENSE_STATUS", Meaning("warpline.gpu.vgpu.licensed")),
)
"""Field of DCGM without `DCGM_FI_` → its meaning."""

AMD = _table(
    ("GPU_GFX_ACTIVITY", Meaning("hw.gpu.utilization", "general", PERCENT)),
    ("GPU_VCN_ACTIVITY", Meaning("hw.gpu.utilization", "decoder", PERCENT)),
    ("GPU_UMC_ACTIVITY", Meaning("warpline.gpu.memory.copy.utilization", None, PERCENT)),
    ("GPU_USED_VRAM", Meaning("hw.gpu.memory.usage", None, MIB, False, True)),
    ("GPU_TOTAL_VRAM", Meaning("hw.gpu.memory.limit", None, MIB, False, True)),
    ("GPU_FREE_VRAM", Meaning("warpline.gpu.memory.free", None, MIB, False, True)),
    ("GPU_PACKAGE_POWER GPU_POWER_USAGE", Meaning("hw.power")),
    ("GPU_AVERAGE_PACKAGE_POWER", Meaning("warpline.gpu.power.average")),
    ("GPU_ENERGY_CONSUMED", Meaning("hw.energy", None, 1e-6, True)),
    ("GPU_EDGE_TEMPERATURE", Meaning("hw.temperature", "edge")),
    ("GPU_JUNCTION_TEMPERATURE", Meaning("hw.temperature", "gpu")),
    ("GPU_MEMORY_TEMPERATURE", Meaning("hw.temperature", "memory")),
    ("GPU_CLOCK", Meaning("warpline.gpu.clock", None, MHZ)),
    ("GPU_XGMI_LINK_RX", Meaning("warpline.gpu.xgmi.io", "receive", KIB, True)),
    ("GPU_XGMI_LINK_TX", Meaning("warpline.gpu.xgmi.io", "transmit", KIB, True)),
    ("PCIE_REPLAY_COUNT", _count("hw.errors", "pcie_replay")),
    ("GPU_ECC_CORRECT_TOTAL", _count("hw.errors", "ecc_correctable")),
    ("GPU_ECC_UNCORRECT_TOTAL", _count("hw.errors", "ecc_uncorrectable")),
)
"""AMD's field, in its documentation's capitals → its meaning. Units as its documentation says: VRAM in MB, energy in µJ."""


def meaning(series_name: str) -> tuple[str, Meaning]:
    """Return vendor and meaning of a field as a page spells it; a field that is not known keeps its name and number."""
    upper = series_name.upper()
    if upper.startswith("DCGM_"):
        known = DCGM.get(upper.removeprefix("DCGM_FI_"))
        return "nvidia", known or Meaning(f"warpline.gpu.dcgm.{upper.removeprefix('DCGM_').lower()}", None, 1.0, None)
    known = AMD.get(upper)
    return "amd", known or Meaning(f"warpline.gpu.amd.{series_name.lower()}", None, 1.0, None)
