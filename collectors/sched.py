"""Why threads of watched processes did not run: waiting for a lock, a socket, a disk, a page, a timer, or for a free core.

Raw tracepoints `sched_switch` and `sched_waking`. Where a thread leaves the CPU, its system call tells the reason (of read
and write, the file they wait for); outside of one it waits in a page fault; one that could go on waits for a core
(runqueue). Where it comes back, the time is summed up in the Linux kernel by process and reason (`off_cpu_total`, one row
each second), and times from `sched_threshold_us` on are rows of their own (`off_cpu`), with the part of them that was spent
waiting for a core after the wake-up. Watched are the processes of `http_ports`, `http_executables`, `http_cgroups` and
`engine_wire_executables`.

Every time off the CPU is a row at detail 3, and inside of windows that are asked for (POST /api/detail of the query API:
one request's, or an alert's next half minute); all others go to the flight recorder, where there is one. At detail 1 only
the sums are made, whatever is asked for.

Needs Linux 5.18 on x86-64 with BTF, and root or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE. Costs 0.1 µs for every switch of
the node and 1 µs for one of a watched thread (bench/probes.py prints today's).

Not seen: a time at whose end, or begin, the kernel ran no program, which `loss` counts (a kernel may spare some threads its
programs: the return of a thread that takes over from one of them goes unseen); a time that has not ended; one that began
before its process was watched. `woken_by_pid` is the process that ran where the wake-up was made: for a lock or a local
socket the one that did it, for packets from outside a bystander. For times
that an interrupt ends (disk, page fault, sleep) it is NULL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from collectors.bpf.maps import Array
from collectors.bpf.probe import Programs, polled, server_rules, why_no_servers
from collectors.bpf.ring import Records
from collectors.bpf.singles import LEAST, Singles, Times
from collectors.bpf.totals import Totals
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

OFF_CPU = schema.table("off_cpu")
OFF_CPU_TOTAL = schema.table("off_cpu_total")
TABLES = (OFF_CPU, OFF_CPU_TOTAL)
SCOPE = "node"

TEXTS = ("targets.bpf.h", "socket.bpf.h", "listen.bpf.h", "totals.bpf.h", "sched.bpf.c")
ATTACH = {"raw_switch": "sched_switch", "raw_waking": "sched_waking", "raw_listen": "inet_sock_set_state"}
INTERVAL = np.dtype(
    [
        *((name, "<u8") for name in ("start_ns", "end_ns", "runnable_ns", "process_start_ns")),
        *((name, "<u4") for name in ("process", "thread", "reason", "waker")),
    ]
)
TOTAL_KEY = np.dtype([("process_start_ns", "<u8"), ("process", "<u4"), ("reason", "<u4")])
TOTAL = np.dtype([(name, "<u8") for name in ("intervals", "away_ns", "runqueue_ns", "longest_ns")])
REASONS = np.array(["runqueue", "futex", "poll", "network", "disk", "page_fault", "sleep", "other"])
_ENDED_BY_INTERRUPT = np.isin(REASONS, ["disk", "page_fault", "sleep"])
LOSSES = (
    "watched processes: map full",
    "times off the cpu: ring full",
    "times off the cpu: map full",
    "times off the cpu: sums full",
    "times off the cpu: a switch was not seen",
)
"""What counter i of the program counts (the enum in sched.bpf.c)."""
SIZES = {"THREADS": 16384, "TOTALS": 4096, "INTERVAL_PAGES": 1024}
_NEVER = (1 << 64) - 1
_NOTHING = Batch(OFF_CPU, pa.RecordBatch.from_pylist([], OFF_CPU.arrow))


def check(settings: Settings) -> str | None:
    """Return why scheduling cannot be seen here, or that nothing is chosen to be watched."""
    return why_no_servers(settings)


def run(context: Context) -> Iterator[Batch]:
    """Yield `off_cpu` batches each 100 ms where there are any, `off_cpu_total` each second."""
    probe = Probe(context)
    yield from polled(probe, probe.poll)


class Probe(Programs):
    """The programs, attached, and what reads them."""

    attaches, keeps = ATTACH, ("threads",)

    def __init__(self, context: Context, defines: dict[str, int] | None = None) -> None:
        """Compile, attach, and watch what the settings ask for."""
        super().__init__(context, TEXTS, {**SIZES, **(defines or {})}, LOSSES, server_rules(context.settings))
        self.intervals = self.loaded.ring("intervals", INTERVAL)
        self.totals = Totals(self.loaded, "totals", TOTAL_KEY, TOTAL)
        self._threshold = self.loaded.map("threshold", "<u4", "<u8")
        self._long_ns = max(context.settings.sched_threshold_us, 0) * 1000
        self._told_ns = -1
        self._singles = Singles(context)
        self._set_threshold()
        self.begin()

    def poll(self) -> list[Batch]:
        """Return what ended since the last poll, and count what was lost."""
        self.follow()
        found = self.intervals.take()
        self.count_losses()
        batches = self._singles.batches(OFF_CPU, found, self._columns, self._long_ns) or [_NOTHING]
        self._set_threshold()
        return batches + self.sums() if self.totals.are_due() else batches

    def sums(self) -> list[Batch]:
        """Return the sums of the second before the last."""
        return self.totals.batches(OFF_CPU_TOTAL, self.context, _sums)

    def _set_threshold(self) -> None:
        """Tell the program from where on a time is told of, at the detail and in the windows that are asked for."""
        self._singles.refresh()
        least = _NEVER if self.context.detail() <= LEAST else 0 if self._singles.on else self._long_ns
        if least != self._told_ns:
            self._told_ns = least
            self._threshold.set(0, least)

    def _columns(self, x: Records, start: Times, end: Times) -> dict[str, Any]:
        runnable = self.context.clock.from_monotonic(x["runnable_ns"].astype(np.int64))
        unknown = (x["waker"] == 0) | (x["reason"] == 0) | _ENDED_BY_INTERRUPT[x["reason"]]
        return {
            "reason": REASONS[x["reason"]].tolist(),
            "runqueue_ns": end - runnable,
            "woken_by_pid": pa.array(x["waker"].astype(np.int64), mask=unknown),
        }


def _sums(keys: Array, values: Array) -> dict[str, Any]:
    return {
        "reason": REASONS[keys["reason"]].tolist(),
        "intervals": values["intervals"].sum(axis=1).astype(np.int64),
        "total_ns": values["away_ns"].sum(axis=1).astype(np.int64),
        "runqueue_ns": values["runqueue_ns"].sum(axis=1).astype(np.int64),
        "longest_ns": values["longest_ns"].max(axis=1).astype(np.int64),
    }
