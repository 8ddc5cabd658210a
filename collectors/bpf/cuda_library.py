"""CUDA's libraries in processes: which a process maps, and whether one is the double that stands in for a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from collectors.bpf import elf
from collectors.identity import proc
from warpline.errors import SourceError

_LIBRARY = re.compile(r"/libcuda(rt)?[.-][^/]*$")
_DOUBLE = "warpline_double_busy_ns"
"""A function that only the double has."""


def mapped(pid: int) -> Iterator[tuple[tuple[str, str], Path]]:
    """Yield ((device, inode), path as seen from here) of each libcuda and libcudart that a process has mapped."""
    for line in (proc.read(pid, "maps") or "").splitlines():
        cells = line.split(maxsplit=5)
        if len(cells) != 6 or "x" not in cells[1]:
            continue
        name = cells[5].removesuffix(" (deleted)")
        if _LIBRARY.search(name):
            # The name of a file that was replaced leads to another one: its mapping still leads to it.
            path = f"map_files/{cells[0]}" if name != cells[5] else f"root{name}"
            yield (cells[3], cells[4]), proc.PROC / str(pid) / path


def is_double(path: Path) -> bool:
    """Return whether a libcuda is the double: what comes of it is simulated."""
    try:
        return _DOUBLE in elf.symbols(path, [_DOUBLE])
    except SourceError:
        return False


def simulated(pid: int) -> bool | None:
    """Return True where a process computes on the double, None where it does not (the column `simulated`)."""
    return True if any(is_double(path) for _, path in mapped(pid)) else None
