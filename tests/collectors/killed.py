"""Sources in a process of its own that can be killed: `python -m tests.collectors.killed NAMES STATE_DIR OUT KEY=VALUE…`.

Runs them as the collector does. Every batch is appended to OUT, one JSON line a batch; or goes to the real exporter, by
default to a peer that does not answer, where OUT is `queue`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from tests.waiting import until
from warpline import no_pandas, source
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.export import Exporter
from warpline.settings import load
from warpline.spool import Spool

ROOT = Path(__file__).resolve().parents[2]


def rows_before_kill(
    name: str, state_dir: Path, table: str, enough: Callable[[list[dict[str, Any]]], bool], **settings: str
) -> list[dict[str, Any]]:
    """Run a source until its rows of `table` are enough, kill it with SIGKILL, and return them."""
    out = state_dir / f"handed-on-{name}.jsonl"
    with killed(name, state_dir, str(out), **settings):
        until(lambda: enough(_read(out, table)), 60)
    return _read(out, table)


@contextmanager
def killed(name: str, state_dir: Path, out: str = "queue", **settings: str) -> Iterator[int]:
    """Run a source, or several with commas between, until the block ends, then kill it with SIGKILL; yields the pid."""
    command = [sys.executable, "-m", "tests.collectors.killed", name, str(state_dir), out]
    child = subprocess.Popen([*command, *[f"{key}={value}" for key, value in settings.items()]], cwd=ROOT)
    try:
        yield child.pid
    finally:
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(20) == -signal.SIGKILL


def queued(state_dir: Path) -> list[Batch]:
    """What lies in the export queue that a killed process left."""
    spool = Spool(state_dir / "queue", 1 << 30)
    found = [batch for _, batches in spool.read() for batch in batches]
    spool.close()
    return found


def _read(out: Path, table: str) -> list[dict[str, Any]]:
    lines = out.read_bytes().split(b"\n")[:-1] if out.exists() else []
    return [row for told in map(orjson.loads, lines) if told["table"] == table for row in told["rows"]]


def main(name: str, state_dir: Path, out: str, given: dict[str, Any]) -> None:
    """Run the sources until killed."""
    no_pandas.keep_out()
    chosen = load(environ={}, **{"state_dir": str(state_dir), "collector_endpoint": "http://127.0.0.1:9", **given})
    emit = Exporter(chosen, "node-a").emit if out == "queue" else _writer(Path(out))
    for each in name.split(","):
        source.Runner(source.load(each), source.Context(each, "node-a", chosen, NodeClock(state_dir), emit)).start()
    threading.Event().wait()


def _writer(out: Path) -> source.Emit:
    file = out.open("ab", buffering=0)

    def emit(batch: Batch) -> None:
        file.write(orjson.dumps({"table": batch.table.name, "rows": batch.rows.to_pylist()}, default=str) + b"\n")

    return emit


if __name__ == "__main__":
    pairs = dict(pair.split("=", 1) for pair in sys.argv[4:])
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], pairs)
