"""On a process's PYTHONPATH: its wall clock is off by the seconds that the file STEPPED_CLOCK says, now and at each call.

What a step of the node's clock is to the process: `time.time` jumps, `time.monotonic` does not. Only root may step the real
one, and everybody on the machine would see it.
"""

import os
import time
from pathlib import Path

_off_s = Path(os.environ["STEPPED_CLOCK"])
_time, _time_ns = time.time, time.time_ns


def _seconds() -> int:
    try:
        return int(_off_s.read_text() or 0)
    except OSError:
        return 0


time.time = lambda: _time() + _seconds()
time.time_ns = lambda: _time_ns() + _seconds() * 1_000_000_000
