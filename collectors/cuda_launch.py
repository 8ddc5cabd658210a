"""Calls of CUDA's driver and runtime that launch, copy, allocate or wait, by uprobes: without any library in the process.

For processes that the injected library (`cuda_kernel`) is not in. Uprobes (uprobe_multi links, one process each) stand at
the entry and the return of the functions in `CALLS`, in whatever libcuda and libcudart a watched process maps, containers'
own among them. A row is one call: when it began and ended on the host, its thread, stream and result. It never says when or
for how long a kernel ran on the GPU: no `gpu_kernel` row comes from here, and `correlation_id` is NULL. A driver's call
inside a runtime's is that one call. Kernels have names where the process asked for them by name (cuModuleGetFunction,
cuLibraryGetKernel) while it was watched.

Processes are found by `cuda_launch_executables`; one in which the injected library is mapped is left to `cuda_kernel`.

Needs Linux 6.6 on x86-64 with BTF, and root or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE. Costs 1.2 µs for each call, entry
and return (bench/probes.py prints today's), and other processes of the same library nothing. What a uprobe costs hangs on a
function's first instruction, and is measured at start (`warpline check`, /metrics): functions where every place is
single-stepped (11 µs in a virtual machine) are not probed, and logged, unless 10,000 such calls a second stay under
`collector_budget_ratio`; where only the entry is cheap, a call has no end. At detail 1 only graph launches and waits are
probed.

Not seen: launches by a statically linked libcudart are seen as the driver's calls; calls of a libcuda that is not
exported by name (cuGetProcAddress gives the exported one in all drivers that we know); kernels inside a CUDA graph.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.bpf import cuda_library, elf, loader, probe_point, uprobe_price
from collectors.bpf.probe import OFF, Programs, polled
from collectors.bpf.ring import Records
from collectors.bpf.targets import Rules
from collectors.identity import proc
from collectors.identity.batches import process_uids
from warpline import schema
from warpline.batch import Batch
from warpline.errors import SourceError
from warpline.settings import Settings
from warpline.source import Context

log = logging.getLogger(__name__)

LAUNCH = schema.table("launch")
TABLES = (LAUNCH,)
SCOPE = "node"

_DI, _SI, _DX, _CX, _R8, _STACK, _BEHIND_DI = range(1, 8)
LEAST, ORDINARY = 1, 2


@dataclass(frozen=True, slots=True)
class Call:
    """One function: the detail level from which it is probed, and where its arguments `stream` and `kernel` are."""

    name: str
    level: int
    stream: int = 0
    offset: int = 0
    """Bytes from the stack pointer, or from what the first argument points to."""
    kernel: int = 0


_BASE = (
    # Positions by the System V ABI from cuda.h and cuda_runtime_api.h; a dim3 by value takes two registers.
    Call("cuLaunchKernel", ORDINARY, _STACK, 24, _DI),
    Call("cuLaunchKernelEx", ORDINARY, _BEHIND_DI, 32, _SI),
    Call("cuLaunchCooperativeKernel", ORDINARY, _STACK, 24, _DI),
    Call("cuGraphLaunch", LEAST, _SI),
    Call("cuMemcpyAsync", ORDINARY, _CX),
    Call("cuMemcpyHtoDAsync_v2", ORDINARY, _CX),
    Call("cuMemcpyDtoHAsync_v2", ORDINARY, _CX),
    Call("cuMemcpyDtoDAsync_v2", ORDINARY, _CX),
    Call("cuMemsetD8Async", ORDINARY, _CX),
    Call("cuMemsetD32Async", ORDINARY, _CX),
    Call("cuStreamSynchronize", LEAST, _DI),
    Call("cudaLaunchKernel", ORDINARY, _STACK, 16, _DI),
    Call("cudaLaunchKernelExC", ORDINARY, _BEHIND_DI, 32, _SI),
    Call("cudaLaunchCooperativeKernel", ORDINARY, _STACK, 16, _DI),
    Call("cudaGraphLaunch", LEAST, _SI),
    Call("cudaMemcpyAsync", ORDINARY, _R8),
    Call("cudaMemsetAsync", ORDINARY, _CX),
    Call("cudaStreamSynchronize", LEAST, _DI),
)
_PLAIN = (
    *(Call(name, LEAST) for name in ("cuCtxSynchronize", "cuEventSynchronize", "cudaDeviceSynchronize")),
    *(Call(name, LEAST) for name in ("cudaEventSynchronize",)),
    *(Call(name, ORDINARY) for name in ("cuMemAlloc_v2", "cuMemAllocAsync", "cuMemFree_v2", "cuMemFreeAsync")),
    *(Call(name, ORDINARY) for name in ("cudaMalloc", "cudaMallocAsync", "cudaFree", "cudaFreeAsync", "cudaMemcpy")),
)
_THREAD = tuple(Call(f"{each.name}_ptsz", each.level, each.stream, each.offset, each.kernel) for each in _BASE)
"""The forms whose default stream is the calling thread's."""
CALLS = (*_BASE, *_PLAIN, *_THREAD)
_NAMES = np.array([each.name for each in CALLS])
_NAMING = ("cuModuleGetFunction", "cuLibraryGetKernel")

MADE = np.dtype(
    [
        *((name, "<u8") for name in ("start_ns", "end_ns", "process_start_ns", "stream", "kernel")),
        *((name, "<u4") for name in ("process", "thread", "function")),
        ("result", "<i4"),
    ]
)
NAMED = np.dtype([("kernel", "<u8"), ("process", "<u4"), ("length", "<u4"), ("name", "S128")])
LOSSES = (
    "watched processes: map full",
    "cuda calls: ring full",
    "cuda calls: map full",
    "kernel names: not kept",
)
"""What counter i of the program counts (the enum in cuda_launch.bpf.h)."""
TEXTS = ("targets.bpf.h", "cuda_launch.bpf.c")
SIZES = {"OPEN_CALLS": 4096, "CALL_PAGES": 1024, "NAME_PAGES": 64}
_ATTACH_S = 1.0
_CALLS_PER_S = 10_000
"""CUDA calls of an engine that runs without CUDA graphs: what single-stepping is held against before a call is made."""
_INJECTED = "libwarpline_cuda.so"


def check(settings: Settings) -> str | None:
    """Return why CUDA calls cannot be seen here, or that nothing is chosen to be watched."""
    if not _rules(settings):
        return "nothing is watched: set cuda_launch_executables"
    return loader.why_not()


def limits(settings: Settings) -> str:
    """Return what a probe of a call costs on this machine."""
    price = uprobe_price.measured()
    return price.sentence() if price else "what a uprobe costs here cannot be measured"


def run(context: Context) -> Iterator[Batch]:
    """Yield `launch` batches, one each 100 ms where there are any."""
    probe = Probe(context)
    yield from polled(probe, lambda: [probe.poll()])


@dataclass
class _Process:
    """One watched process: its links by library file, and whether a GPU is behind them."""

    level: int
    links: dict[tuple[str, str], list[object]] = field(default_factory=dict)
    simulated: bool | None = None
    names: dict[int, str] = field(default_factory=dict)
    """Kernels' names by handle."""


class Probe(Programs):
    """The programs, what they are attached to, and what reads them."""

    def __init__(self, context: Context, defines: dict[str, int] | None = None) -> None:
        """Compile, and attach to what the settings ask for."""
        super().__init__(context, TEXTS, {**SIZES, **(defines or {})}, LOSSES, _rules(context.settings))
        self.calls = self.loaded.ring("calls", MADE)
        self._named = self.loaded.ring("names", NAMED)
        price = uprobe_price.measured()
        self._can_step = uprobe_price.affordable(price, context.settings.collector_budget_ratio, _CALLS_PER_S)
        context.figures.update(price.figures() if price else {})
        self._processes: dict[int, _Process] = {}
        self._attached_s = -_ATTACH_S

    def poll(self) -> Batch:
        """Return the calls that ended since the last poll, and count what was lost."""
        self.follow()
        if time.monotonic() > self._attached_s + _ATTACH_S:
            self._attached_s = time.monotonic()
            self.attach()
        found = self.calls.take()
        for each in self._named.take():  # One for each kernel of a process's life.
            process = self._processes.get(int(each["process"]))
            if process is not None:
                process.names[int(each["kernel"])] = each["name"].decode(errors="replace")
        self.count_losses()
        if not len(found):
            return Batch(LAUNCH, pa.RecordBatch.from_pylist([], LAUNCH.arrow))
        return Batch(LAUNCH, LAUNCH.batch(self._rows(found)))

    def attach(self) -> None:
        """Attach to what watched processes map now, as the detail in force asks; let go of those that have ended."""
        level = self.context.detail()
        watched = set(self.targets.watched())
        for pid in [each for each, process in self._processes.items() if process.level != level or each not in watched]:
            process = self._processes[pid]
            for key in [key for keys in process.links.values() for key in keys]:
                self.loaded.detach(key)
            process.links.clear()
            process.level = level
            if pid not in watched:
                del self._processes[pid]
        for pid in watched if level > OFF else ():
            self._attach(pid, level)

    def _attach(self, pid: int, level: int) -> None:
        libraries = dict(cuda_library.mapped(pid))
        if not libraries or _INJECTED in (proc.read(pid, "maps") or ""):
            return
        process = self._processes.setdefault(pid, _Process(level))
        for file, path in libraries.items():
            if file in process.links:
                continue
            process.links[file] = []
            try:
                self._attach_library(pid, path, level, process.links[file])
                process.simulated = process.simulated or cuda_library.is_double(path) or None
            except (OSError, SourceError) as error:
                log.warning("process %d, %s: its CUDA calls are not seen: %s", pid, path, error)

    def _attach_library(self, pid: int, path: Path, level: int, links: list[object]) -> None:
        found = elf.symbols(path, [each.name for each in CALLS if each.level <= level])
        entries, returns, dear = _points(path, found, self._can_step)
        for function, places, on_return in (("uprobe_call", entries, False), ("uprobe_return", returns, True)):
            if places:
                cookies = list(places.values())
                links.append(self.loaded.attach_uprobes(function, str(path), list(places), on_return, pid, cookies))
        naming = list(dict.fromkeys(elf.symbols(path, _NAMING).values()))
        if naming:
            links.append(self.loaded.attach_uprobes("uprobe_naming", str(path), naming, False, pid))
            links.append(self.loaded.attach_uprobes("uprobe_named", str(path), naming, True, pid))
        log.info("process %d, %s: %d CUDA calls are probed", pid, path, len(entries))
        if dear:
            log.warning("process %d, %s: too dear to probe: %s", pid, path, ", ".join(dear))

    def _rows(self, x: Records) -> dict[str, Any]:
        clock, node = self.context.clock, self.context.node
        pids, place = np.unique(x["process"], return_inverse=True)
        known = [self._processes.get(pid) for pid in pids.tolist()]
        simulated = pa.array([each.simulated if each else None for each in known], pa.bool_())
        only_entry = x["end_ns"] == 0
        stream = x["stream"].astype(np.int64)
        return {
            "start_ns": clock.from_monotonic(x["start_ns"].astype(np.int64)),
            "end_ns": pa.array(clock.from_monotonic(x["end_ns"].astype(np.int64)), mask=only_entry),
            "node": node,
            "process_uid": process_uids(node, x["process_start_ns"], x["process"]),
            "thread_id": x["thread"].astype(np.int64),
            "api": _NAMES[x["function"]].tolist(),
            "cuda_stream": pa.array(stream, mask=_HAS_NO_STREAM[x["function"]]),
            "kernel_name": self._kernel_names(x["kernel"], place, known),
            "result": pa.array(x["result"].astype(np.int64), mask=only_entry),
            "observed_by": "cuda_launch",
            "simulated": simulated.take(pa.array(place)),
        }

    def _kernel_names(
        self, kernels: npt.NDArray[Any], place: npt.NDArray[Any], known: list[_Process | None]
    ) -> list[str | None]:
        """Return each call's kernel's name; each kernel of each process is looked up once."""
        pairs, numbers = np.unique(np.stack([place.astype(np.uint64), kernels]), axis=1, return_inverse=True)
        names: list[str | None] = []
        for of, kernel in pairs.T.tolist():
            process = known[of]
            names.append(process.names.get(kernel) if process else None)
        return [names[number] for number in numbers.reshape(-1).tolist()]


_HAS_NO_STREAM = np.array([each.stream == 0 for each in CALLS])


def _points(path: Path, found: dict[str, int], can_step: bool) -> tuple[dict[int, int], dict[int, int], list[str]]:
    """Return where to probe entries and returns, with the cookie of each, and which functions are too dear.

    Names that share one place are one function. A runtime's function whose return is dear is not probed: what it calls of
    the driver would then be counted beside it.
    """
    entries: dict[int, int] = {}
    returns: dict[int, int] = {}
    dear: list[str] = []
    for number, call in enumerate(CALLS):
        if call.name not in found:
            continue
        point = probe_point.choose(path, found[call.name], can_step)
        if point is None or (not point.returns and call.name.startswith("cuda")):
            dear.append(call.name)
        elif point.offset not in entries:
            entry_only = 0 if point.returns else 1
            entries[point.offset] = number | call.stream << 8 | call.offset << 16 | call.kernel << 24 | entry_only << 32
            if point.returns:
                returns[found[call.name]] = entries[point.offset]
    return entries, returns, dear


def _rules(settings: Settings) -> Rules:
    return Rules.from_texts("", settings.cuda_launch_executables, "")
