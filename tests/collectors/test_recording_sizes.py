"""Two gigabytes: imported or refused, and either way in less than one gigabyte of memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SIZE = 2 << 30
LIMIT_MB = 1024
MEMBER = 16 << 20
PADDING = 64 << 10
BASE = 1_767_189_312_000_000_000

# Linux keeps a parent's peak in ru_maxrss of what it starts; VmHWM is the process's own.
PROBE = """
import importlib, json, re, sys, tempfile
from pathlib import Path
from tests.collectors.reading import context
from warpline.errors import SourceError
rows, refused = {}, ""
with tempfile.TemporaryDirectory() as state:
    try:
        for batch in importlib.import_module("collectors." + sys.argv[1]).read(Path(sys.argv[2]), context(Path(state), [])):
            rows[batch.table.name] = rows.get(batch.table.name, 0) + batch.rows.num_rows
    except SourceError as error:
        refused = str(error)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps({"rows": rows, "refused": refused, "peak_mb": peak}))
"""


def packed(path: Path, head: bytes, piece: bytes, tail: bytes) -> int:
    """Write a gzip file of head, as many pieces as make two gigabytes, and tail; return how many."""
    together = MEMBER // len(piece)
    member = gzip.compress(piece * together, 1)  # Members of a gzip file follow each other: one is compressed for all.
    members = SIZE // MEMBER + 1
    path.write_bytes(gzip.compress(head) + member * members + gzip.compress(tail))
    return members * together


def read_alone(module: str, path: Path, root: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", PROBE, module, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_two_gigabytes_of_a_trace_are_imported_in_bounded_memory(root: Path, tmp_path: Path) -> None:
    """Few events with long arguments, as recorded with shapes and stacks: what counts is that none of the text stays."""
    path = tmp_path / "large.json.gz"
    kernel = {"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": 5, "dur": 1}
    event = json.dumps(kernel | {"args": {"device": 0, "stream": 7, "Call stack": "f;" * (PADDING // 2)}})
    head = f'{{"baseTimeNanoseconds": {BASE}, "traceEvents": [{json.dumps(kernel | {"args": {"device": 0}})}'
    count = packed(path, head.encode(), f",\n{event}".encode(), b"]}")
    found = read_alone("kineto", path, root)
    assert (found["rows"]["gpu_kernel"], found["refused"]) == (count + 1, "")
    assert found["peak_mb"] < LIMIT_MB


NO_TRACES: dict[str, tuple[bytes, bytes]] = {
    "one string without an end": (b'{"traceEvents": [{"name": "', b"x" * PADDING),
    "brackets in brackets": (b'{"traceEvents": [', b"[" * PADDING),
    "quotes and backslashes": (b'{"traceEvents": [{"name": "', b'\\"' * PADDING),
    "no events at all": (b'{"resourceSpans": [', b"{},\n" * PADDING),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", NO_TRACES)
def test_two_gigabytes_that_are_no_trace_are_refused_in_bounded_memory(root: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "bomb.json.gz"
    head, piece = NO_TRACES[what]
    packed(path, head, piece, b"")
    found = read_alone("kineto", path, root)
    assert (found["rows"], ": " in found["refused"]) == ({}, True)
    assert found["peak_mb"] < LIMIT_MB
