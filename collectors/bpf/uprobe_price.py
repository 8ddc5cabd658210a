"""What one hit of a uprobe costs on this machine, measured: a small function of our own, called with a probe and without.

The price is the trap into the Linux kernel and back, which its statistics of BPF programs do not hold: 0.5 µs where the
probed instruction is emulated, and from 1 µs to 11 µs (a virtual machine) where it is single-stepped (see probe_point.py).
The function is machine code in a file in memory (memfd), the program two instructions long, so that neither a compiler nor
BCC is needed; all of it takes some 20 ms of CPU time, once a process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from collectors.bpf import syscall

# run(count, function): calls the function `count` times.
_RUN = bytes.fromhex("53 4154 4889fb 4989f4 41ffd4 48ffcb 75f8 415c 5b c3")
_EMULATED, _STEPPED = bytes.fromhex("55 5d c3"), bytes.fromhex("31c0 c3")
"""push %rbp; pop %rbp; ret, and xor %eax,%eax; ret."""
_EMULATED_AT, _STEPPED_AT, _BYTES = 64, 128, 4096
_PROGRAM = bytes.fromhex("b700000000000000 9500000000000000")
"""r0 = 0; exit."""
_HITS, _ROUNDS = 200, 5


@dataclass(frozen=True, slots=True)
class Price:
    """CPU time in ns that one hit costs the probed thread, without what its BPF program does."""

    emulated_ns: float
    stepped_ns: float
    return_ns: float
    """Of the trap at a function's return, beside that of its entry."""

    def entry_ns(self, emulated: bool) -> float:
        """Return the price of a hit where the probed instruction is emulated, or else single-stepped."""
        return self.emulated_ns if emulated else self.stepped_ns

    def figures(self) -> dict[str, float]:
        """Return the prices by the names that they have on /metrics."""
        return {
            "uprobe_emulated_ns": self.emulated_ns,
            "uprobe_stepped_ns": self.stepped_ns,
            "uprobe_return_ns": self.return_ns,
        }

    def sentence(self) -> str:
        """Return the prices as `warpline check` says them."""
        return (
            f"a uprobe costs {self.emulated_ns / 1e3:.1f} µs here, {self.stepped_ns / 1e3:.1f} µs where it is "
            f"single-stepped, {self.return_ns / 1e3:.1f} µs more at a return"
        )


def affordable(price: Price | None, budget_ratio: float, calls_per_s: float) -> bool:
    """Return whether calls at this rate can be probed at entry and return, single-stepped, under a share of one core."""
    return price is not None and (price.stepped_ns + price.return_ns) * calls_per_s <= budget_ratio * 1e9


_MEASURING = threading.Lock()


def begin() -> None:
    """Measure in a thread of its own: most of it is waiting for the kernel (0.15 s), while programs are loaded."""
    threading.Thread(target=measured, name="uprobe-price", daemon=True).start()


def measured() -> Price | None:
    """Return the prices on this machine, measured once a process; None where no uprobe can be attached here."""
    with _MEASURING:
        return _measured()


@lru_cache(maxsize=1)
def _measured() -> Price | None:
    try:
        return _measure()
    except OSError:  # No privilege, no uprobe_multi, or no executable memory.
        return None


def _measure() -> Price:
    program = syscall.load_program(_PROGRAM, syscall.KPROBE, syscall.UPROBE_MULTI, "price")
    file = os.memfd_create("uprobe-price")
    try:
        code = bytearray(b"\xcc" * _BYTES)
        for at, text in ((0, _RUN), (_EMULATED_AT, _EMULATED), (_STEPPED_AT, _STEPPED)):
            code[at : at + len(text)] = text
        os.write(file, code)
        memory = mmap.mmap(file, _BYTES, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        start = np.frombuffer(memory, np.uint8).ctypes.data
        run = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64)(start)

        def price(at: int, on_return: bool) -> float:
            without = _per_call(run, start + at)
            link = syscall.link_uprobes(program, f"/proc/self/fd/{file}", [at], on_return, os.getpid())
            try:
                return max(_per_call(run, start + at) - without, 0.0)
            finally:
                os.close(link)

        emulated = price(_EMULATED_AT, False)
        return Price(emulated, price(_STEPPED_AT, False), max(price(_EMULATED_AT, True) - emulated, 0.0))
    finally:
        os.close(file)
        os.close(program)


def _per_call(run: ctypes._FuncPointer, function: int) -> float:
    """Return the ns of CPU time that one call takes: of the fastest of some rounds, which nothing disturbed."""
    spent = []
    for _ in range(_ROUNDS):
        began = time.thread_time_ns()
        run(_HITS, function)
        spent.append(time.thread_time_ns() - began)
    return min(spent) / _HITS
