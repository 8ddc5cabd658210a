"""Keeps a process small that has many threads and little data: to be imported before anything that makes a pyarrow array.

pyarrow imports pandas, where it is installed, as soon as it makes its first array: 50 MB and most of a second of CPU time.
In a collector's image it is not installed; beside a dashboard it is. And of what threads free, their own heaps (glibc's
arenas) and pyarrow's allocator keep much: at 5,000 requests/s a collector of six eBPF sources took 226 MB with two heaps
that all threads share, and 274 MB without, with more CPU time.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_ARENA_MAX = -8  # malloc.h of glibc
_HEAPS = 2


class _WithoutPandas:
    """A finder that finds nothing, and says of pandas that there is none."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is kept out of this process (warpline/lean.py)", name=name)


if "pandas" not in sys.modules:
    sys.meta_path.insert(0, _WithoutPandas)
if "pyarrow" not in sys.modules:
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
if _mallopt is not None:
    _mallopt(_M_ARENA_MAX, _HEAPS)
