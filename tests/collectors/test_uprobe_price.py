"""What a uprobe costs on this machine, measured, and what is made of it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from collectors import cuda_launch
from collectors.bpf import elf, loader, probe_point, syscall, uprobe_price
from collectors.bpf.uprobe_price import Price, affordable
from tests.collectors.conftest import Caught

PROBED = loader.read() + "int uprobe_nothing(struct pt_regs *ctx) { return 0; }\n"


@pytest.mark.needs_bpf
def test_prices_are_measured_and_nothing_stays_attached_or_open(bpf: None) -> None:
    before = set(os.listdir("/proc/self/fd"))
    uprobe_price._measured.cache_clear()
    uprobe_price.begin()
    price = uprobe_price.measured()  # Which may come before what was begun, and waits for it then.
    assert price is not None
    assert price.emulated_ns > 0 and price.stepped_ns > 0 and price.return_ns >= 0
    assert set(os.listdir("/proc/self/fd")) == before
    assert uprobe_price.measured() is price  # Once a process.


@pytest.mark.needs_bpf
def test_1009_hits_cost_their_traps_beside_the_programs_time(bpf: None) -> None:
    library = next(Path("/lib").glob("*-linux-gnu/libc.so.6"), None)
    if library is None:
        pytest.skip("no libc.so.6 under /lib")
    price, place = uprobe_price.measured(), elf.symbols(library, ["getppid"])["getppid"]
    assert price is not None
    loaded, statistics = loader.load(PROBED), syscall.enable_statistics()
    try:
        key = loaded.attach_uprobes("uprobe_nothing", str(library), [place], pid=os.getpid())
        assert loaded.trap_ns() == 0
        for _ in range(1009):
            ctypes.CDLL(None).getppid()
        each = price.entry_ns(probe_point.is_emulated(elf.first_bytes(library, place)))
        assert loaded.trap_ns() == pytest.approx(1009 * each)
        loaded.detach(key)
        assert loaded.trap_ns() == 0
    finally:
        os.close(statistics)
        loaded.close()


def test_stepping_is_paid_for_only_under_the_budget() -> None:
    here, elsewhere = Price(600, 11_000, 500), Price(300, 1_200, 200)
    assert not affordable(here, 0.05, 10_000)
    assert affordable(elsewhere, 0.05, 10_000)
    assert not affordable(None, 1.0, 1)
    dear = b"\x48\x83\xec\x08\x48\x89\xe5"
    assert probe_point.point(dear, 16) is None
    assert probe_point.point(dear, 16, stepped=True) == probe_point.Point(16, True, False)


@pytest.mark.needs_bpf
def test_the_prices_are_figures_of_the_source_and_a_clause_of_check(bpf: None, caught: Caught) -> None:
    cuda_launch.Probe(caught.context).close()
    assert set(caught.context.figures) == {"uprobe_emulated_ns", "uprobe_stepped_ns", "uprobe_return_ns"}
    assert cuda_launch.limits(caught.context.settings).startswith("a uprobe costs ")
