"""What a source's BPF programs cost, for the governor: measured by the kernel for a tenth of a second in five."""

from __future__ import annotations

import logging
import os
import time

from collectors.bpf import syscall
from collectors.bpf.loader import Loaded

_EVERY_S = 5.0
_NONE = -1

log = logging.getLogger(__name__)


class KernelCost:
    """CPU time of the programs of one `Loaded` and of the traps of its uprobes, from samples: to time every run would itself
    cost two clock reads."""

    def __init__(self, loaded: Loaded) -> None:
        """Measure nothing yet: `sample` does, called with each poll."""
        self._loaded = loaded
        self._statistics = _NONE
        self._allowed, self._sampling = True, False
        self._began_s = self._ended_s = time.monotonic()
        self._before_ns = 0.0
        self._total_ns = 0.0

    def total_ns(self) -> int:
        """Return the CPU time so far, in ns: what `Context.kernel_cost_ns` gives."""
        return int(self._total_ns)

    def sample(self) -> None:
        """Begin or end a sample where its time has come."""
        now = time.monotonic()
        if not self._sampling:
            if now - self._ended_s >= _EVERY_S:
                self._sampling, self._statistics = True, self._enable()
                self._began_s, self._before_ns = now, self._spent_ns()
            return
        self.close()
        share = (self._spent_ns() - self._before_ns) / max(now - self._began_s, 1e-3)
        self._total_ns += share * (now - self._ended_s)
        self._ended_s = now

    def _spent_ns(self) -> float:
        return self._loaded.run_ns() + self._loaded.trap_ns()

    def _enable(self) -> int:
        """Have the kernel time each run, as far as it lets us."""
        try:
            return syscall.enable_statistics() if self._allowed else _NONE
        except PermissionError:
            self._allowed = False
            log.info(
                "what BPF programs cost is not told without CAP_SYS_ADMIN or kernel.bpf_stats_enabled=1: the budget counts"
                " the reader's CPU and the traps of uprobes alone"
            )
            return _NONE

    def close(self) -> None:
        """End a sample that is under way."""
        self._sampling = False
        if self._statistics != _NONE:
            os.close(self._statistics)
            self._statistics = _NONE
