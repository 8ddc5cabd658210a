"""Processes that use the CUDA double, and the source that watches them."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

from collectors.inject.build import build as build_library
from demo.cuda_double import driver
from demo.cuda_double.build import build as build_double
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.settings import Settings
from warpline.source import Context

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@dataclass
class Watcher:
    """A source that runs, and what it gave."""

    context: Context
    batches: list[Batch] = field(default_factory=list)

    def rows(self, table: str) -> list[dict[str, object]]:
        """Return the rows of `table`."""
        found = [batch.rows for batch in list(self.batches) if batch.table.name == table]
        return pa.Table.from_batches(found).to_pylist() if found else []

    def losses(self) -> dict[str, int]:
        """Return how many records were counted lost, by reason."""
        found: dict[str, int] = {}
        for row in self.rows("loss"):
            found[str(row["reason"])] = found.get(str(row["reason"]), 0) + int(str(row["lost"]))
        return found

    def wait_for(self, table: str, rows: int, seconds: float = 10) -> None:
        """Wait until `table` has at least so many rows."""
        until = time.monotonic() + seconds
        while len(self.rows(table)) < rows and time.monotonic() < until:
            time.sleep(0.02)
        assert len(self.rows(table)) >= rows


@contextmanager
def watching(source: ModuleType, directory: Path, **settings: object) -> Iterator[Watcher]:
    """Run `source` over the rings in `directory`; it has read all of them on leaving."""
    asked = Settings(ring_dir=str(directory / "rings"), state_dir=str(directory / "state"), **settings)  # type: ignore[arg-type]
    assert source.check(asked) is None
    seen: list[Batch] = []
    context = Context("under_test", "node-1", asked, NodeClock(directory / "state"), seen.append)
    watcher = Watcher(context, seen)

    def run() -> None:
        seen.extend(source.run(context))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield watcher
    context.stop.set()
    thread.join(20)
    assert not thread.is_alive()


def environment(directory: Path, **more: str) -> dict[str, str]:
    """Return the environment of a watched process, with a ground-truth log."""
    double = driver.environment(build_double(), build_library(), directory / "rings")
    mine = {"WARPLINE_DOUBLE_TRUTH": str(directory / "truth.csv"), "WARPLINE_GPU_EAGER_STEPS": "1/1"}
    return {**os.environ, "PYTHONPATH": str(ROOT), **double, **mine, **more}


def work(directory: Path, name: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run one workload to its end."""
    command = [sys.executable, "-m", "tests.collectors.gpu_workload", name]
    env = environment(directory, **more)
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def truth(directory: Path) -> list[dict[str, str]]:
    """Return the ground-truth log: every execution, as the device made it."""
    with (directory / "truth.csv").open(newline="") as file:
        return list(csv.DictReader(file))
