"""Commands in namespaces of their own, as containers have them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.waiting import until


def unshare(*options: str) -> list[str]:
    """What to put before a command, which then has the namespaces that `options` of unshare(1) say; skips where that is
    not allowed."""
    made = subprocess.run(["unshare", *options, "true"], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(made.stderr.strip())
    return ["unshare", *options]


def child(pid: int) -> int:
    """The process that a process has forked, once it has."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until(children.read_text)
    return int(children.read_text().split()[0])
