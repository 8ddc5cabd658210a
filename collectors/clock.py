"""The node's clocks: what joins nodes, recordings and foreign spans to node time.

Reads CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME and CLOCK_TAI once a second in one sandwich (about 1 µs), and what the
kernel's NTP says of its own error (adjtimex(2), reading only). Needs no privilege; any Linux. Costs about 1 µs for each
reading. A step of CLOCK_REALTIME shows as a jump of realtime_ns - monotonic_ns between two rows.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

from warpline import __version__, clock, schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

NODE = schema.table("node")
CLOCK_PAIR = schema.table("clock_pair")
TABLES = (NODE, CLOCK_PAIR)
SCOPE = "node"

_EVERY_S = 1.0


def check(settings: Settings) -> str | None:
    """Return None: every Linux has these clocks."""
    return None


def run(context: Context) -> Iterator[Batch]:
    """Yield one `node` row, then a `clock_pair` row each second."""
    yield Batch(NODE, NODE.batch(_node_row(context), rows=1))
    while True:
        yield Batch(CLOCK_PAIR, CLOCK_PAIR.batch(_pair_row(context), rows=1))
        if context.wait(_EVERY_S):
            return


def _node_row(context: Context) -> dict[str, object]:
    machine_id = Path("/etc/machine-id")
    return {
        "time_ns": context.clock.now_ns(),
        "node": context.node,
        "boot_id": context.clock.boot_id,
        "machine_id": machine_id.read_text(encoding="ascii").strip() if machine_id.exists() else None,
        "kernel_release": platform.release(),
        "architecture": platform.machine(),
        "anchor_ns": context.clock.anchor_ns,
        "warpline_version": __version__,
    }


def _pair_row(context: Context) -> dict[str, object]:
    pair = clock.read_pair()
    error_ns, status = clock.realtime_error()
    return {
        "time_ns": context.clock.from_monotonic(pair.monotonic_ns),
        "node": context.node,
        "boot_id": context.clock.boot_id,
        "monotonic_ns": pair.monotonic_ns,
        "boottime_ns": pair.boottime_ns,
        "realtime_ns": pair.realtime_ns,
        "tai_ns": pair.tai_ns,
        "half_width_ns": pair.half_width_ns,
        "realtime_error_ns": error_ns,
        "realtime_status": status,
    }
