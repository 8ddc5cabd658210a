"""System calls of watched processes: how many of each, how long in all, and at detail 3 each of them.

Raw tracepoints `sys_enter` and `sys_exit`. Calls are summed up in the Linux kernel by process and call, and leave it once a
second (`syscall_total`); single calls (`syscall`) only at detail 3, and inside of windows that are asked for (POST
/api/detail of the query API: one request's, or an alert's next half minute), though never at detail 1; all others go to the
flight recorder, where there is one. A call's arguments are not read, but for the file descriptor, nor is any memory. Watched
are the processes of `http_ports`, `http_executables`, `http_cgroups` and `engine_wire_executables`.

Needs Linux 5.8 on x86-64 with BTF, and root or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE. Costs 0.1 µs for each system call of
the node and 0.4 µs for one of a watched process, 0.5 µs where single ones are told (bench/probes.py prints today's).

Not seen: a call that has not ended, or that began before its process was watched; exit and exit_group; what io_uring does;
calls of 32-bit processes have x86-64's names. A call that a signal interrupted and that began again counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.bpf.maps import Array
from collectors.bpf.probe import Programs, polled, server_rules, why_no_servers
from collectors.bpf.ring import Records
from collectors.bpf.singles import Singles, Times
from collectors.bpf.syscall_names import DESCRIPTOR_FIRST, NAMES
from collectors.bpf.totals import Totals
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
SIZES = {"THREADS": 16384, "TOTALS": 16384, "CALL_PAGES": 1024}
_NOTHING = Batch(SYSCALL, pa.RecordBatch.from_pylist([], SYSCALL.arrow))


def check(settings: Settings) -> str | None:
    """Return why system calls cannot be seen here, or that nothing is chosen to be watched."""
    return why_no_servers(settings)


def run(context: Context) -> Iterator[Batch]:
    """Yield `syscall_total` batches each second, and where single calls are asked for `syscall` batches each 100 ms."""
    probe = Probe(context)
    yield from polled(probe, probe.poll)


class Probe(Programs):
    """The programs, attached, and what reads them."""

    attaches, keeps = ATTACH, ("inside",)

    def __init__(self, context: Context, defines: dict[str, int] | None = None) -> None:
        """Compile, attach, and watch what the settings ask for."""
        super().__init__(context, TEXTS, {**SIZES, **(defines or {})}, LOSSES, server_rules(context.settings))
        self.calls = self.loaded.ring("calls", CALL)
        self.totals = Totals(self.loaded, "totals", TOTAL_KEY, TOTAL)
        self._told = self.loaded.map("singles", "<u4", "<u4")
        self._singles = Singles(context)
        self._set_singles()
        self.begin()

    def poll(self) -> list[Batch]:
        """Return the calls that ended since the last poll, and count what was lost."""
        self.follow()
        found = self.calls.take()
        self.count_losses()
        batches = self._singles.batches(SYSCALL, found, _columns) or [_NOTHING]
        self._set_singles()
        return batches + self.sums() if self.totals.are_due() else batches

    def sums(self) -> list[Batch]:
        """Return the sums of the second before the last."""
        return self.totals.batches(SYSCALL_TOTAL, self.context, _sums)

    def _set_singles(self) -> None:
        if self._singles.refresh():
            self._told.set(0, int(self._singles.on))


def _columns(x: Records, start: Times, end: Times) -> dict[str, Any]:
    return {
        "name": _names(x["number"]),
        "result": x["result"],
        "descriptor": pa.array(x["descriptor"].astype(np.int32).astype(np.int64), mask=_without(x["number"])),
    }


def _sums(keys: Array, values: Array) -> dict[str, Any]:
    return {
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
