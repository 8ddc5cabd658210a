"""The flight recorder from the Linux kernel to the store: what happened before somebody asked is there once they ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pytest

from collectors.bpf import loader
from tests.collectors.test_syscall import Caller
from tests.correlator.test_serve import eventually, free, running
from warpline import governor
from warpline.client import Client
from warpline.collector import Collector
from warpline.settings import Settings

pytestmark = pytest.mark.needs_bpf


@pytest.fixture
def caller() -> Iterator[Caller]:
    found = Caller()
    yield found
    found.process.communicate()


def collecting(correlator: Settings, state_dir: Path, caller: Caller) -> Settings:
    return Settings(
        node="n1",
        state_dir=str(state_dir),
        collector_sources="clock,syscall",
        collector_endpoint=correlator.collector_endpoint,
        collector_query_url=correlator.query_url,
        collector_metrics_address="",
        collector_budget_ratio=10,  # The test is about what is kept, not about what this machine can afford.
        engine_wire_executables=caller.name,
    )


def called(client: Client, table: str) -> int:
    """How many umask(2) are known: as sums, or one by one."""
    rows = client.table(table)
    rows = rows.filter(pc.equal(rows["name"], "umask"))
    return int(pc.sum(rows["calls"]).as_py() or 0) if table == "syscall_total" else rows.num_rows


def test_single_calls_from_before_somebody_asked_are_stored_once_they_ask(
    tmp_path: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = loader.why_not()
    if reason:
        pytest.skip(reason)
    monkeypatch.setattr(governor, "_EVERY_S", 0.1)
    with running(free(tmp_path / "correlator", alerts_every_s=0)) as (_, client, settings):
        collector = Collector(collecting(settings, tmp_path / "collector", caller))
        collector.start()
        try:
            probe = next(runner for runner in collector.runners if runner.context.name == "syscall")
            eventually(lambda: probe.state.up, True, 60)
            began_ns = collector.clock.now_ns()
            caller.does("umask", 997)
            ended_ns = collector.clock.now_ns()
            eventually(lambda: called(client, "syscall_total"), 997, 30)
            assert called(client, "syscall") == 0
            client.keep(since_ns=began_ns, until_ns=ended_ns, node="another")
            client.keep(since_ns=began_ns, until_ns=ended_ns, node="n1")
            eventually(lambda: called(client, "syscall"), 997, 30)
            caller.does("umask", 31)
            # The second window holds the first: what was sent for that is not sent, or not stored, again.
            client.keep(since_ns=began_ns - 10**9, until_ns=collector.clock.now_ns())
            eventually(lambda: called(client, "syscall"), 997 + 31, 30)
            times = client.table("syscall")["start_ns"]
            assert pc.min(times).as_py() >= began_ns - 10**9
        finally:
            collector.stop()
