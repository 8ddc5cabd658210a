"""The flight recorder from the Linux kernel to the store: what happened before somebody asked is there once they ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.compute as pc
import pytest

from correlator.alerting import alert_rule
from tests.collectors.test_syscall import Caller
from tests.correlator.test_serve import eventually, free, running, send
from warpline import governor, schema
from warpline.batch import Batch
from warpline.client import Client
from warpline.collector import Collector
from warpline.settings import Settings

pytestmark = [pytest.mark.needs_bpf, pytest.mark.usefixtures("bpf")]


@pytest.fixture
def caller() -> Iterator[Caller]:
    found = Caller()
    yield found
    found.process.communicate()


def collecting(correlator: Settings, state_dir: Path, caller: Caller, node: str = "n1") -> Settings:
    return Settings(
        node=node,
        state_dir=str(state_dir),
        collector_sources="clock,syscall",
        collector_endpoint=correlator.collector_endpoint,
        collector_query_url=correlator.query_url,
        collector_metrics_address="",
        collector_budget_ratio=10,  # The test is about what is kept, not about what this machine can afford.
        engine_wire_executables=caller.name,
    )


def called(client: Client, table: str, node: str = "n1") -> int:
    """How many umask(2) are known of a node: as sums, or one by one."""
    rows = client.table(table)
    rows = rows.filter(pc.and_(pc.equal(rows["name"], "umask"), pc.equal(rows["node"], node)))
    return int(pc.sum(rows["calls"]).as_py() or 0) if table == "syscall_total" else rows.num_rows


def test_single_calls_from_before_somebody_asked_are_stored_once_they_ask(
    tmp_path: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@contextmanager
def both(correlator: Settings, tmp_path: Path, caller: Caller) -> Iterator[list[Collector]]:
    """Two nodes' collectors, whose probes are up."""
    nodes = [Collector(collecting(correlator, tmp_path / node, caller, node)) for node in ("n1", "n2")]
    try:
        for node in nodes:
            node.start()
        probes = [runner for node in nodes for runner in node.runners if runner.context.name == "syscall"]
        eventually(lambda: all(probe.state.up for probe in probes), True, 60)
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def dropped_packet(now_ns: int) -> Batch:
    """What an alert about no node, and no request that is known, fires on."""
    flow = schema.table("flow")
    row = {"time_ns": now_ns, "node": "n3", "verdict": "DROPPED", "counted": True, "drop_reason": "POLICY_DENIED"}
    return Batch(flow, flow.batch(row, rows=1), f"flow/{now_ns}")


def test_an_alert_keeps_what_was_before_it_and_what_comes_after_on_every_node(
    tmp_path: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governor, "_EVERY_S", 0.1)
    off = ",".join(rule.name for rule in alert_rule.load() if rule.name != "path_drops")
    watching = {"alerts_every_s": 0.2, "alerts_lateness_s": 0.0, "alerts_off": off}
    with running(free(tmp_path / "correlator", **watching)) as (_, client, settings):
        with both(settings, tmp_path, caller) as nodes:
            caller.does("umask", 997)
            for node in ("n1", "n2"):
                eventually(lambda node=node: called(client, "syscall_total", node), 997, 60)
                assert called(client, "syscall", node) == 0
            assert send(settings, dropped_packet(nodes[0].clock.now_ns())) == 200
            for node in ("n1", "n2"):
                eventually(lambda node=node: called(client, "syscall", node), 997, 60)
            caller.does("umask", 31)
            for node in ("n1", "n2"):
                eventually(lambda node=node: called(client, "syscall", node), 997 + 31, 60)
        (kept,) = client.kept()
        assert (kept["cause"], kept["node"]) == ("path_drops", "")
