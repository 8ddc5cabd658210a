"""Python's cycle collector, paused while a reader makes and drops rows by the million.

Parsed events hold no cycles, so counting references frees them; the collector would look at each of them several times.
Measured on a 63 MB Kineto trace: 2.9 s of CPU with it, 1.75 s without.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Pause the collector inside the block, and leave it as it was."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
