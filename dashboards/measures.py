"""What readings of GPUs are called, and in which unit a person reads them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dashboards import words

SEEN = ("warpline.gpu.seen", "busy")
"""No reading: the busy time that executions tell of, for GPUs without an exporter."""

_SHARE, _BYTES, _SPEED, _HERTZ, _CODE = "1", "By", "By/s", "Hz", "code"
_NAMES: dict[tuple[str, str | None], tuple[str, str]] = {
    ("warpline.gpu.pipe.active", "sm"): ("SM activity", _SHARE),
    ("hw.gpu.utilization", "general"): ("GPU in use: any kernel runs", _SHARE),
    ("warpline.gpu.pipe.active", "tensor"): ("Tensor cores active", _SHARE),
    ("warpline.gpu.pipe.active", "memory"): ("Memory bandwidth in use", _SHARE),
    ("warpline.gpu.pipe.active", "graphics"): ("Compute or graphics engine active", _SHARE),
    ("warpline.gpu.sm.occupancy", None): ("SM occupancy", _SHARE),
    ("hw.gpu.memory.usage", None): ("Memory used", _BYTES),
    ("hw.gpu.memory.utilization", None): ("Memory used, of all", _SHARE),
    ("warpline.gpu.memory.free", None): ("Memory free", _BYTES),
    ("warpline.gpu.memory.reserved", None): ("Memory reserved by the driver", _BYTES),
    ("hw.gpu.memory.limit", None): ("Memory, all of it", _BYTES),
    ("hw.power", None): ("Power", "W"),
    ("hw.energy", None): ("Power, by the energy counter", "W"),
    ("warpline.gpu.power.instant", None): ("Power, at the moment", "W"),
    ("warpline.gpu.power.average", None): ("Power, as the GPU averages it", "W"),
    ("hw.temperature", "gpu"): ("Temperature of the GPU", "°C"),
    ("hw.temperature", "memory"): ("Temperature of its memory", "°C"),
    ("warpline.gpu.clock", "sm"): ("Clock of the SMs", _HERTZ),
    ("warpline.gpu.clock", "memory"): ("Clock of the memory", _HERTZ),
    ("warpline.gpu.throttled", "power"): ("Held back by its power cap", _SHARE),
    ("warpline.gpu.throttled", "thermal"): ("Held back by its temperature", _SHARE),
    ("warpline.gpu.pcie.throughput", "transmit"): ("PCIe, sent", _SPEED),
    ("warpline.gpu.pcie.throughput", "receive"): ("PCIe, received", _SPEED),
    ("warpline.gpu.nvlink.throughput", "transmit"): ("NVLink, sent", _SPEED),
    ("warpline.gpu.nvlink.throughput", "receive"): ("NVLink, received", _SPEED),
    ("hw.gpu.io", "transmit"): ("PCIe, sent (counted)", _SPEED),
    ("hw.gpu.io", "receive"): ("PCIe, received (counted)", _SPEED),
    ("warpline.gpu.xid.last", None): ("Last XID", _CODE),
    SEEN: ("Busy time of seen kernels", _SHARE),
}
"""(metric, part) → title and unit, the most telling first."""

_UNITS = (
    ("warpline.gpu.pipe.active", _SHARE),
    ("hw.gpu.utilization", _SHARE),
    ("utilization", _SHARE),
    ("throttled", _SHARE),
    ("ratio", _SHARE),
    ("memory", _BYTES),
    ("clock.reasons", "bits"),
    ("clock", _HERTZ),
    ("power", "W"),
    ("temperature", "°C"),
    ("throughput", _SPEED),
    (".io", _SPEED),
    ("state", _CODE),
)
"""What is in the name of a measure without a title → its unit, the first that fits."""

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def key(metric: str, part: Any) -> str:
    """Return a measure as the page's address spells it."""
    return metric if words.missing(part) else f"{metric} · {part}"


def named(metric: str, part: Any) -> tuple[str, str]:
    """Return a measure's title and unit; a unit is empty where it is a count, or not known."""
    part = None if words.missing(part) else str(part)
    if (metric, part) in _NAMES:
        return _NAMES[metric, part]
    title = metric.removeprefix("warpline.gpu.").removeprefix("hw.gpu.").removeprefix("hw.")
    title = title.replace(".", " ").replace("_", " ")
    unit = next((unit for name, unit in _UNITS if name in metric), "")
    return f"{title[:1].upper()}{title[1:]}" + (f", {part.replace('_', ' ')}" if part else ""), unit


def rank(metric: str, part: Any) -> int:
    """Return where a measure stands among all, the most telling first."""
    found = (metric, None if words.missing(part) else str(part))
    return list(_NAMES).index(found) if found in _NAMES else len(_NAMES)


def values(found: pd.DataFrame, unit: str) -> pd.Series:
    """Return the values of rows of view `gpu_heat` in a unit: what grows is told by the second, but for a count.

    Of codes and bits, which have no mean, the greatest stands for its interval.
    """
    if unit in (_CODE, "bits"):
        return found["greatest"].astype(float)
    grown = found["passed_ns"].notna()
    by_second = found["value"].astype(float) * 1e9 / found["passed_ns"].astype("Float64").astype(float)
    return found["value"].astype(float).where(~grown | (unit == ""), by_second)


def said(value: float, unit: str) -> str:
    """Return a value as a person reads it: 97 %, 71.0 GB, 1.76 GHz, 560 W."""
    if pd.isna(value):
        return "–"
    if unit == _SHARE:
        return f"{100 * value:.1f} %" if value < 0.1 else f"{100 * value:.0f} %"
    if unit in (_CODE, "bits"):
        return f"{value:.0f}"
    if unit in (_BYTES, _SPEED, _HERTZ):
        size, prefix = next(((size, prefix) for size, prefix in _SCALES if abs(value) >= size), (1.0, ""))
        return f"{value / size:.3g} {prefix}{unit.replace('By', 'B')}"
    return f"{value:,.0f} {unit}".strip() if abs(value) >= 100 else f"{value:.3g} {unit}".strip()


def axis(unit: str, greatest: float) -> tuple[float, str]:
    """Return what to divide values by on an axis that reaches to `greatest`, and the unit to write beside it."""
    if unit == _SHARE:
        return 0.01, "%"
    if unit in (_BYTES, _SPEED, _HERTZ):
        size, prefix = next(((size, prefix) for size, prefix in _SCALES if abs(greatest) >= size), (1.0, ""))
        return size, prefix + unit.replace("By", "B")
    return 1.0, {_CODE: "code", "": "count"}.get(unit, unit)
