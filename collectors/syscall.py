"""System calls of watched processes: how many of each, how long in all, and at detail 3 each of them.

Raw tracepoints `sys_enter` and `sys_exit`. Calls are summed up in the Linux kernel by process and call, and leave it once a
second (`syscall_total`); single calls (`syscall`) only where detail 3 is asked for, while an incident is looked at. A
call's arguments are not read, but for the file descriptor, nor is any memory. Watched are the processes of `http_ports`,
`http_executables`, `http_cgroups` and `engine_wire_executables`.

Needs Linux 5.8 on x86-64 with BTF, and root or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE. Costs 0.1 µs for each system call of
the node and 0.6 µs for one of a watched process, 0.8 µs at detail 3 (bench/probes.py prints today's).

Not seen: a call that has not ended, or that began before its process was watched; exit and exit_group; what io_uring does;
calls of 32-bit processes have x86-64's names. A call that a signal interrupted and that began again counts twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.bpf import loader
from collectors.bpf.cost import KernelCost
from collectors.bpf.ring import COUNTER, Records, Tally
from collectors.bpf.syscall_names import DESCRIPTOR_FIRST, NAMES
from collectors.bpf.targets import Rules, Targets
from collectors.bpf.totals import Sums, Totals
from collectors.identity.batches import process_uids
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

SYSCALL = schema.table("syscall")
SYSCALL_TOTAL = schema.table("syscall_total")
TABLES = (SYSCALL, SYSCALL_TOTAL)
SCOPE = "node"

TEXTS = ("targets.bpf.h", "listen.bpf.h", "totals.bpf.h", "syscall.bpf.c")
ATTACH = {
    "raw_sys_enter": "sys_enter",
    "raw_sys_exit": "sys_exit",
    "raw_thread_exit": "sched_process_exit",
    "raw_listen": "inet_sock_set_state",
}
CALL = np.dtype(
    [
        *((name, "<u8") for name in ("start_ns", "end_ns", "process_start_ns")),
        ("result", "<i8"),
        *((name, "<u4") for name in ("process", "thread", "number", "descriptor")),
    ]
)
TOTAL_KEY = np.dtype([("process_start_ns", "<u8"), ("process", "<u4"), ("number", "<u4")])
TOTAL = np.dtype([(name, "<u8") for name in ("calls", "inside_ns", "longest_ns")])
LOSSES = (
    "watched processes: map full",
    "system calls: ring full",
    "system calls: map full",
    "system calls: sums full",
)
"""What counter i of the program counts (the enum in syscall.bpf.c)."""
SIZES = {"THREADS": 16384, "TOTALS": 16384, "CALL_PAGES": 2048}
_POLL_S, _SUM_S, _LOOK_S = 0.1, 1.0, 2.0
_ALL = 3


def check(settings: Settings) -> str | None:
    """Return why system calls cannot be seen here, or that nothing is chosen to be watched."""
    if not _rules(settings):
        return "nothing is watched: set http_ports, http_executables, http_cgroups or engine_wire_executables"
    return loader.why_not()


def run(context: Context) -> Iterator[Batch]:
    """Yield `syscall_total` batches each second, and at detail 3 `syscall` batches each 100 ms."""
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
        self.calls = self.loaded.ring("calls", CALL)
        self.tally = Tally(self.loaded.map("counters", "<u4", COUNTER), LOSSES, _now())
        self.totals = Totals(self.loaded, "totals", TOTAL_KEY, TOTAL)
        self._singles = self.loaded.map("singles", "<u4", "<u4")
        self._single = False
        self.cost = KernelCost(self.loaded)
        self._set_detail()
        self.targets = Targets(self.loaded, _rules(context.settings))
        self.loaded.attach_raw(ATTACH)
        self._summed_s = self._looked_s = time.monotonic()

    def poll(self) -> list[Batch]:
        """Return the calls that ended since the last poll, and count what was lost."""
        self._set_detail()
        self.targets.refresh()
        self.cost.sample()
        now_s = time.monotonic()
        if now_s > self._looked_s + _LOOK_S:
            self._looked_s = now_s
            self.targets.look_again()
        found = self.calls.take()
        for loss in self.tally.losses(_now()):
            start, end = (self.context.clock.from_monotonic(each) for each in (loss.start_ns, loss.end_ns))
            self.context.lost(loss.reason, loss.count, start, end)
        rows = SYSCALL.batch(self._rows(found)) if len(found) else pa.RecordBatch.from_pylist([], SYSCALL.arrow)
        batches = [Batch(SYSCALL, rows)]
        if now_s > self._summed_s + _SUM_S:
            self._summed_s = now_s
            batches += self.sums()
        return batches

    def sums(self) -> list[Batch]:
        """Return the sums of the second before the last."""
        sums = self.totals.take()
        if sums is None or not len(sums.keys):
            return []
        return [Batch(SYSCALL_TOTAL, SYSCALL_TOTAL.batch(self._total_rows(sums)))]

    def close(self) -> None:
        """Detach and free everything."""
        self.cost.close()
        self.loaded.close()

    def _set_detail(self) -> None:
        wanted = self.context.detail() >= _ALL
        if wanted != self._single:
            self._single = wanted
            self._singles.set(0, int(wanted))

    def _rows(self, x: Records) -> dict[str, Any]:
        clock, node = self.context.clock, self.context.node
        return {
            "start_ns": clock.from_monotonic(x["start_ns"].astype(np.int64)),
            "end_ns": clock.from_monotonic(x["end_ns"].astype(np.int64)),
            "node": node,
            "process_uid": process_uids(node, x["process_start_ns"], x["process"]),
            "thread_id": x["thread"].astype(np.int64),
            "name": _names(x["number"]),
            "result": x["result"],
            "descriptor": pa.array(x["descriptor"].astype(np.int32).astype(np.int64), mask=_without(x["number"])),
        }

    def _total_rows(self, sums: Sums) -> dict[str, Any]:
        clock, node = self.context.clock, self.context.node
        keys, values = sums.keys, sums.values
        return {
            "start_ns": np.full(len(keys), clock.from_monotonic(sums.start_ns)),
            "end_ns": clock.from_monotonic(sums.end_ns),
            "node": node,
            "process_uid": process_uids(node, keys["process_start_ns"], keys["process"]),
            "name": _names(keys["number"]),
            "calls": values["calls"].sum(axis=1).astype(np.int64),
            "total_ns": values["inside_ns"].sum(axis=1).astype(np.int64),
            "longest_ns": values["longest_ns"].max(axis=1).astype(np.int64),
        }


def _names(numbers: npt.NDArray[Any]) -> pa.DictionaryArray:
    """Return the name of each number, dictionary-encoded: each name's text is made once."""
    known, places = np.unique(numbers, return_inverse=True)
    texts = [NAMES.get(each, f"syscall_{each}") for each in known.tolist()]
    return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), pa.array(texts, pa.string()))


def _without(numbers: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return where a call's first argument is no file descriptor."""
    known, places = np.unique(numbers, return_inverse=True)
    return np.array([NAMES.get(each) not in DESCRIPTOR_FIRST for each in known.tolist()], bool)[places]


def _rules(settings: Settings) -> Rules:
    executables = f"{settings.http_executables},{settings.engine_wire_executables}"
    return Rules.from_texts(settings.http_ports, executables, settings.http_cgroups)


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
