"""What the tests of the store share: rows with a number each, and the settings of a small store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from correlator.storage.store import Store
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

KERNEL = schema.table("gpu_kernel")
SYSCALL = schema.table("syscall")
SPAN = schema.table("span")
DAY = 86_400_000_000_000
NOON = 20_000 * DAY + DAY // 2
"""Noon of 2024-10-04, UTC."""


def small(state_dir: Path, **more: Any) -> Settings:
    settings = {"correlator_memory_limit_mb": 256, "correlator_disk_reserve_mb": 1, "correlator_store_delay_s": 0.02}
    return Settings(state_dir=str(state_dir), **(settings | {"node": "n"} | more))


def syscalls(batch_id: str, numbers: Any, start_ns: int = NOON) -> Batch:
    """Rows whose `result` is their number, 1 ms apart from `start_ns`."""
    numbers = np.asarray(numbers)
    rows = SYSCALL.batch({"start_ns": start_ns + numbers * 1_000_000, "node": "n", "name": "read", "result": numbers})
    return Batch(SYSCALL, rows, batch_id)


def kernels(batch_id: str, rows: int, start_ns: int = NOON) -> Batch:
    """Rows as a busy GPU makes them, enough of them for a segment where `rows` is."""
    number = np.arange(rows)
    columns = {
        "start_ns": start_ns + number * 10_000,
        "end_ns": start_ns + number * 10_000 + 9_000,
        "node": "n",
        "process_uid": "n:1:2",
        "gpu_uuid": "GPU-1",
        "cuda_stream": 7 + number % 3,
        "correlation_id": number,
        "name": [f"kernel_{n % 11}" for n in range(rows)],
        "kind": "kernel",
    }
    return Batch(KERNEL, KERNEL.batch(columns), batch_id)


def numbers(store: Store) -> list[int]:
    """The numbers of all syscall rows stored, sorted."""
    return sorted(store.query("SELECT result FROM syscall")["result"].to_pylist())


def spans_of(batch_id: str, numbers: range, start_ns: int = NOON) -> Batch:
    """Spans whose ids are their numbers, 1 ns apart from `start_ns`."""
    ids = [number.to_bytes(16, "big") for number in numbers]
    rows = SPAN.batch({"start_ns": [start_ns + n for n in numbers], "trace_id": ids, "span_id": list(numbers)})
    return Batch(SPAN, rows, batch_id)


def count(store: Store, table: str = "gpu_kernel") -> int:
    """How many rows the store has of a table, or of a query in brackets."""
    return int(store.query(f"SELECT count(*) FROM {table}").column(0)[0].as_py())
