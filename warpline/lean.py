"""Keeps a process small that has many threads and little data: to be imported before anything that makes a pyarrow array.

pandas stays out. And of what threads free, their own heaps (glibc's arenas) and pyarrow's allocator keep much: at 5,000
requests/s a collector of six eBPF sources took 226 MB with two heaps that all threads share, and 274 MB without, with more
CPU time.
"""

from __future__ import annotations

import ctypes
import os
import sys

from warpline import no_pandas

_M_ARENA_MAX = -8  # malloc.h of glibc
_HEAPS = 2


no_pandas.keep_out()
if "pyarrow" not in sys.modules:
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
if _mallopt is not None:
    _mallopt(_M_ARENA_MAX, _HEAPS)
