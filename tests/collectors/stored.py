"""What the correlator keeps of batches, whichever way they came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from correlator.storage.store import Store
from warpline.batch import Batch
from warpline.settings import Settings


def stored(batches: list[Batch], table: str, column: str, state_dir: Path) -> list[Any]:
    """One column of all rows that a store in `state_dir` has of a table once it was given the batches."""
    store = Store(Settings(state_dir=str(state_dir), correlator_memory_limit_mb=256))
    store.write(batches)
    found = store.query(f"SELECT {column} FROM {table}")
    store.close()
    return list(found.column(column).to_pylist())
