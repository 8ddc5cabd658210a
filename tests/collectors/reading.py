"""Reading a recording in a test: its batches as one Arrow table a name, and its summary."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from warpline import schema
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.settings import Settings
from warpline.source import Context


@dataclass
class Reading:
    """What a reader yielded, in order, and what it lost."""

    batches: list[Batch]
    losses: list[Batch]
    tables: dict[str, pa.Table] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        for batch in self.batches:
            parts[batch.table.name].append(batch.rows)
        self.tables = {name: pa.Table.from_batches(rows) for name, rows in parts.items()}

    def rows(self, name: str) -> pa.Table:
        """The rows of one table, possibly none."""
        found = self.tables.get(name)
        return schema.table(name).arrow.empty_table() if found is None else found

    @property
    def recording(self) -> dict[str, Any]:
        """The recording row."""
        return self.rows("recording").to_pylist()[0]

    @property
    def summary(self) -> dict[str, Any]:
        """Its summary."""
        return json.loads(self.recording["summary"])


def context(tmp_path: Path, emit: list[Batch]) -> Context:
    """A context whose losses land in `emit`."""
    return Context("test", "here", Settings(), NodeClock(tmp_path), emit.append)


def read(module: ModuleType, path: Path, tmp_path: Path) -> Reading:
    """Read one recording whole."""
    losses: list[Batch] = []
    return Reading(list(module.read(path, context(tmp_path, losses))), losses)
