"""Why threads of watched processes did not run: waiting for a lock, a socket, a disk, a page, a timer, or for a free core.

Raw tracepoints `sched_switch` and `sched_waking`. Where a thread leaves the CPU, its system call tells the reason (of read
and write, the file they wait for); outside of one it waits in a page fault; one that could go on waits for a core
(runqueue). Where it comes back, the time is summed up in the Linux kernel by process and reason (`off_cpu_total`, one row
each second), and times from `sched_threshold_us` on are rows of their own (`off_cpu`), with the part of them that was spent
waiting for a core after the wake-up. Watched are the processes of `http_ports`, `http_executables`, `http_cgroups` and
`engine_wire_executables`.

Needs Linux 5.18 on x86-64 with BTF, and root or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE. Costs 0.1 µs for every switch of
the node and 1 µs for one of a watched thread (bench/probes.py prints today's). At detail 1 only the sums are made, at detail
3 every time off the CPU is a row.

Not seen: a time that has not ended; one that began before its process was watched. `woken_by_pid` is the process that ran
where the wake-up was made: for a lock or a local socket the one that did it, for packets from outside a bystander. For times
that an interrupt ends (disk, page fault, sleep) it is NULL.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from collectors.bpf import loader
from collectors.bpf.cost import KernelCost
from collectors.bpf.ring import COUNTER, Records, Tally
from collectors.bpf.targets import Rules, Targets
from collectors.bpf.totals import Sums, Totals
from collectors.identity.batches import process_uids
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
)
"""What counter i of the program counts (the enum in sched.bpf.c)."""
SIZES = {"THREADS": 16384, "TOTALS": 4096, "INTERVAL_PAGES": 1024}
_POLL_S, _SUM_S, _LOOK_S = 0.1, 1.0, 2.0
_LEAST, _ALL = 1, 3
_NEVER = (1 << 64) - 1


def check(settings: Settings) -> str | None:
    """Return why scheduling cannot be seen here, or that nothing is chosen to be watched."""
    if not _rules(settings):
        return "nothing is watched: set http_ports, http_executables, http_cgroups or engine_wire_executables"
    return loader.why_not()


def run(context: Context) -> Iterator[Batch]:
    """Yield `off_cpu` batches each 100 ms where there are any, `off_cpu_total` each second."""
    probe = Probe(context)
    context.kernel_cost_ns = probe.cost.total_ns
    try:
        while True:
            stopping = context.wait(_POLL_S)
            yield from probe.poll()
            if stopping:
                return
    finally:
        probe.close()


class Probe:
    """The programs, attached, and what reads them."""

    def __init__(self, context: Context, defines: dict[str, int] | None = None) -> None:
        """Compile, attach, and watch what the settings ask for."""
        self.context = context
        self.loaded = loader.load(loader.read(*TEXTS), {**SIZES, **(defines or {})})
        self.intervals = self.loaded.ring("intervals", INTERVAL)
        self.tally = Tally(self.loaded.map("counters", "<u4", COUNTER), LOSSES, _now())
        self.totals = Totals(self.loaded, "totals", TOTAL_KEY, TOTAL)
        self._threshold = self.loaded.map("threshold", "<u4", "<u8")
        self._least_ns = -1
        self.cost = KernelCost(self.loaded)
        self._set_threshold()
        self.targets = Targets(self.loaded, _rules(context.settings))
        self.loaded.attach_raw(ATTACH)
        self._summed_s = self._looked_s = time.monotonic()

    def poll(self) -> list[Batch]:
        """Return what ended since the last poll, and count what was lost."""
        self._set_threshold()
        self.targets.refresh()
        self.cost.sample()
        now_s = time.monotonic()
        if now_s > self._looked_s + _LOOK_S:
            self._looked_s = now_s
            self.targets.look_again()
        found = self.intervals.take()
        for loss in self.tally.losses(_now()):
            start, end = (self.context.clock.from_monotonic(each) for each in (loss.start_ns, loss.end_ns))
            self.context.lost(loss.reason, loss.count, start, end)
        if len(found):
            batches = [Batch(OFF_CPU, OFF_CPU.batch(self._rows(found)))]
        else:
            batches = [Batch(OFF_CPU, pa.RecordBatch.from_pylist([], OFF_CPU.arrow))]
        if now_s > self._summed_s + _SUM_S:
            self._summed_s = now_s
            batches += self.sums()
        return batches

    def sums(self) -> list[Batch]:
        """Return the sums of the second before the last."""
        sums = self.totals.take()
        if sums is None or not len(sums.keys):
            return []
        return [Batch(OFF_CPU_TOTAL, OFF_CPU_TOTAL.batch(self._total_rows(sums)))]

    def close(self) -> None:
        """Detach and free everything."""
        self.cost.close()
        self.loaded.close()

    def _set_threshold(self) -> None:
        """Tell the program from where on a time is a row, at the detail in force."""
        detail = self.context.detail()
        wanted = max(self.context.settings.sched_threshold_us, 0) * 1000
        wanted = _NEVER if detail <= _LEAST else 0 if detail >= _ALL else wanted
        if wanted != self._least_ns:
            self._least_ns = wanted
            self._threshold.set(0, wanted)

    def _rows(self, x: Records) -> dict[str, Any]:
        clock, node = self.context.clock, self.context.node
        start, end, runnable = (x[name].astype(np.int64) for name in ("start_ns", "end_ns", "runnable_ns"))
        unknown = (x["waker"] == 0) | (x["reason"] == 0) | _ENDED_BY_INTERRUPT[x["reason"]]
        return {
            "start_ns": clock.from_monotonic(start),
            "end_ns": clock.from_monotonic(end),
            "node": node,
            "process_uid": process_uids(node, x["process_start_ns"], x["process"]),
            "thread_id": x["thread"].astype(np.int64),
            "reason": REASONS[x["reason"]].tolist(),
            "runqueue_ns": end - runnable,
            "woken_by_pid": pa.array(x["waker"].astype(np.int64), mask=unknown),
        }

    def _total_rows(self, sums: Sums) -> dict[str, Any]:
        clock, node = self.context.clock, self.context.node
        keys, values = sums.keys, sums.values
        return {
            "start_ns": np.full(len(keys), clock.from_monotonic(sums.start_ns)),
            "end_ns": clock.from_monotonic(sums.end_ns),
            "node": node,
            "process_uid": process_uids(node, keys["process_start_ns"], keys["process"]),
            "reason": REASONS[keys["reason"]].tolist(),
            "intervals": values["intervals"].sum(axis=1).astype(np.int64),
            "total_ns": values["away_ns"].sum(axis=1).astype(np.int64),
            "runqueue_ns": values["runqueue_ns"].sum(axis=1).astype(np.int64),
            "longest_ns": values["longest_ns"].max(axis=1).astype(np.int64),
        }


def _rules(settings: Settings) -> Rules:
    executables = f"{settings.http_executables},{settings.engine_wire_executables}"
    return Rules.from_texts(settings.http_ports, executables, settings.http_cgroups)


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
