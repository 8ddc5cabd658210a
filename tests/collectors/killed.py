"""A source in a process of its own that can be killed: `python -m tests.collectors.killed NAME STATE_DIR OUT KEY=VALUE…`.

Runs it as the collector does and appends every batch to OUT, as the exporter would: one JSON line a batch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from tests.collectors.telemetry_doubles import until
from warpline import source
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def rows_before_kill(
    name: str, state_dir: Path, table: str, enough: Callable[[list[dict[str, Any]]], bool], **settings: str
) -> list[dict[str, Any]]:
    """Run a source until its rows of `table` are enough, kill it with SIGKILL, and return them."""
    out = state_dir / f"handed-on-{name}.jsonl"
    command = [sys.executable, "-m", "tests.collectors.killed", name, str(state_dir), str(out)]
    child = subprocess.Popen([*command, *[f"{key}={value}" for key, value in settings.items()]], cwd=ROOT)
    try:
        until(lambda: enough(_read(out, table)), 60)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(20) == -signal.SIGKILL
    return _read(out, table)


def _read(out: Path, table: str) -> list[dict[str, Any]]:
    lines = out.read_bytes().split(b"\n")[:-1] if out.exists() else []
    return [row for told in map(orjson.loads, lines) if told["table"] == table for row in told["rows"]]


def main(name: str, state_dir: Path, out: Path, given: dict[str, Any]) -> None:
    """Run the source until killed."""
    with out.open("ab", buffering=0) as file:

        def emit(batch: Batch) -> None:
            file.write(orjson.dumps({"table": batch.table.name, "rows": batch.rows.to_pylist()}, default=str) + b"\n")

        chosen = replace(Settings(), state_dir=str(state_dir), **given)
        source.Runner(source.load(name), source.Context(name, "node-a", chosen, NodeClock(state_dir), emit)).start()
        threading.Event().wait()


if __name__ == "__main__":
    pairs = dict(pair.split("=", 1) for pair in sys.argv[4:])
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), pairs)
