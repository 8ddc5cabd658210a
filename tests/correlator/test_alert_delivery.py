"""From rows in a real store to a real Alertmanager and a webhook, and back to resolved."""

import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from correlator.alerting import alert_rule
from correlator.alerting.alert_watch import AlertWatch
from correlator.alerting.alerts import Alerts
from correlator.alerting.keep import Keeper
from correlator.storage.store import Store
from correlator.wanted import Wanted
from warpline import schema
from warpline.batch import Batch
from warpline.children import free_port
from warpline.settings import Settings

SECOND = 1_000_000_000
NOW = 1_790_000_000 * SECOND


class Webhook:
    """A real HTTP server that keeps what it is told, and answers with `status`."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if outer.status == 200:
                    outer.told.append(body)
                self.send_response(outer.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def alertmanager(tmp_path: Path, webhook: Webhook) -> Iterator[str]:
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if program is None:
        pytest.skip("no Alertmanager here: Debian's package prometheus-alertmanager has it")
    config = tmp_path / "alertmanager.yml"
    config.write_text(
        "route: {receiver: hook, group_by: [alertname], group_wait: 0s, group_interval: 1s}\n"
        f"receivers: [{{name: hook, webhook_configs: [{{url: '{webhook.url}', send_resolved: true}}]}}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={config}", f"--storage.path={tmp_path / 'am'}", "--cluster.listen-address="]
    child = subprocess.Popen(
        [*command, f"--web.listen-address={address}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: _answers(f"http://{address}/-/ready"))
        yield f"http://{address}"
    finally:
        child.terminate()
        child.wait(10)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(state_dir=str(tmp_path), correlator_disk_reserve_mb=1))
    yield made
    made.close()


class Node:
    """Writes what a node's collector would send, at the times that the test says."""

    def __init__(self, store: Store) -> None:
        self.store, self.sequence = store, 0

    def says(self, table: str, **row: object) -> None:
        self.sequence += 1
        declared = schema.table(table)
        self.store.write([Batch(declared, declared.batch({"node": "n1", **row}, rows=1), f"n1/0/{self.sequence}")])

    def xid(self, time_ns: int, code: float) -> None:
        self.says("gpu_sample", time_ns=time_ns, gpu_uuid="GPU-1", metric="warpline.gpu.xid.last", value=code)


def watch(store: Store, webhook: str = "", alertmanager: str = "", only: str = "gpu_xid") -> AlertWatch:
    off = ",".join(rule.name for rule in alert_rule.load() if rule.name != only)
    settings = Settings(alerts_off=off, alerts_webhook_urls=webhook, alerts_alertmanager_urls=alertmanager)
    return watch_with(store, settings)


def watch_with(store: Store, settings: Settings) -> AlertWatch:
    return AlertWatch(settings, store, store.write, Keeper(settings, store.query, Wanted()))


def test_a_webhook_hears_of_firing_and_of_resolved_with_labels_and_a_link(store: Store, webhook: Webhook) -> None:
    node, watched = Node(store), watch(store, webhook.url)
    node.xid(NOW - 10 * SECOND, 0)
    watched.look(NOW - 5 * SECOND)
    assert webhook.told == []
    node.xid(NOW, 79)
    watched.look(NOW + SECOND)
    assert [(t["rule"], t["state"], t["labels"]) for t in webhook.told] == [
        ("gpu_xid", "firing", {"node": "n1", "gpu_uuid": "GPU-1"})
    ]
    assert "XID 79" in webhook.told[0]["text"]
    assert f"/alerts?rule=gpu_xid&at={NOW + SECOND}" in webhook.told[0]["text"]
    for second in range(301, 310):
        node.xid(NOW + second * SECOND, 79)
        watched.look(NOW + second * SECOND)
    assert [t["state"] for t in webhook.told] == ["firing", "resolved"]


def test_a_webhook_that_was_away_hears_what_it_missed(store: Store, webhook: Webhook) -> None:
    node, watched = Node(store), watch(store, webhook.url)
    node.xid(NOW - 10 * SECOND, 0)
    node.xid(NOW, 79)
    webhook.status = 503
    watched.look(NOW)
    assert webhook.told == []
    webhook.status = 200
    watched.look(NOW + SECOND)
    assert [t["state"] for t in webhook.told] == ["firing"]
    assert (watched.notifier.sent, watched.notifier.failed) == (1, 1)


def test_a_real_alertmanager_passes_on_firing_and_resolved(store: Store, webhook: Webhook, alertmanager: str) -> None:
    now = time.time_ns() - 400 * SECOND  # Alertmanager takes an end in the future for an alert that goes on.
    node, watched = Node(store), watch(store, alertmanager=alertmanager)
    node.xid(now - 10 * SECOND, 0)
    node.xid(now, 79)
    watched.look(now)
    wait_until(lambda: len(webhook.told) >= 1)
    alert = webhook.told[0]["alerts"][0]
    assert (webhook.told[0]["status"], alert["labels"]["alertname"], alert["labels"]["gpu_uuid"]) == (
        "firing",
        "gpu_xid",
        "GPU-1",
    )
    assert "rule=gpu_xid" in alert["generatorURL"]
    for second in (301, 302, 308):
        node.xid(now + second * SECOND, 79)
        watched.look(now + second * SECOND)
    wait_until(lambda: any(t["status"] == "resolved" for t in webhook.told))


def test_a_restart_does_not_fire_twice(store: Store, webhook: Webhook) -> None:
    node, watched = Node(store), watch(store, webhook.url)
    now = time.time_ns()
    node.xid(now - 10 * SECOND, 0)
    node.xid(now, 79)
    watched.look(now)
    again = watch(store, webhook.url)
    again.alerts.restore(store.query("FROM alert ORDER BY time_ns").to_pylist())
    again.look(now + SECOND)
    assert [t["state"] for t in webhook.told] == ["firing"]


def test_every_shipped_rule_runs_on_an_empty_store_and_says_no_data_or_nothing(store: Store) -> None:
    found = Alerts(alert_rule.load(), store.query)
    states = {(a.rule, a.state) for a in found.evaluate(NOW)}
    assert found.errors == {}
    assert {state for _, state in states} == {"no_data"}
    assert {rule for rule, _ in states} == {rule.name for rule in alert_rule.load() if rule.missing == "no_data"}


def test_a_clock_step_of_an_hour_fires_nothing(store: Store) -> None:
    node, watched = Node(store), watch(store, only="collector_silent")
    for second in range(20):
        at = NOW + second * SECOND
        clocks = {"boot_id": "b", "monotonic_ns": at, "boottime_ns": at, "half_width_ns": 100}
        # Node time never steps, whatever CLOCK_REALTIME does.
        node.says("clock_pair", time_ns=at, realtime_ns=at + (second > 10) * 3600 * SECOND, **clocks)
        watched.look(at)
    assert [a.state for a in watched.alerts.active()] in ([], ["no_data"])


def test_a_rule_that_must_hold_for_long_is_looked_at_less_often(store: Store) -> None:
    off = ",".join(rule.name for rule in alert_rule.load() if rule.name not in ("gpu_xid", "gpu_memory_full"))
    watched = watch_with(store, Settings(alerts_off=off, alerts_every_s=0.01))
    assert {rule.name for rule in watched._due()} == {"gpu_xid", "gpu_memory_full"}
    time.sleep(0.03)
    assert {rule.name for rule in watched._due()} == {"gpu_xid"}
