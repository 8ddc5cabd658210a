"""Benches run outside of the tests, by hand: here each is at least one that starts, with what it takes from the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.__main__ import groups

ROOT = Path(__file__).resolve().parent.parent


def test_every_bench_group_can_be_imported_and_run() -> None:
    asked = groups()
    assert {"faults", "ingest", "store"} <= set(asked)
    code = (
        "import importlib, sys; print(all(callable(importlib.import_module(f'bench.{n}').run) for n in sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr[-2000:]
