"""Ctrl-C ends the demo at whatever moment it comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from demo import run
from demo.addresses import Addresses


def test_an_interrupt_that_a_load_swallows_ends_the_demo_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    async def ends_as_it_is_cancelled() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0)

    def send(*_: object) -> None:
        loads.append(1)
        assert len(loads) < 5, "it goes on"
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(ends_as_it_is_cancelled())

    monkeypatch.setattr(run, "_send", send)
    monkeypatch.setattr(run.time, "sleep", lambda _: None)
    before = signal.getsignal(signal.SIGINT)
    with run._interrupts() as interrupted:
        run._keep_serving(0, interrupted, Addresses.free())
    assert len(loads) == 1 and signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_elsewhere_is_one() -> None:
    with pytest.raises(KeyboardInterrupt), run._interrupts():
        os.kill(os.getpid(), signal.SIGINT)
