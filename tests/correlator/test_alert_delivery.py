"""From rows in a real store, or a page that a real Prometheus scrapes, to a real Alertmanager and a webhook, and back."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3

from correlator.alerting import alert_rule, event_time
from correlator.alerting.alert_watch import AlertWatch
from correlator.alerting.alerts import Alerts
from correlator.alerting.keep import Keeper
from correlator.remembered import Remembered
from correlator.storage.store import Store
from correlator.wanted import Wanted
from tests.correlator import alert_chain
from tests.correlator.alert_chain import Webhook, shipped
from tests.waiting import until
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

SECOND = 1_000_000_000
NOW = 1_790_000_000 * SECOND


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


@pytest.fixture
def alertmanager(tmp_path: Path, webhook: Webhook) -> Iterator[str]:
    reason = alert_chain.missing()
    if reason:
        pytest.skip(reason)
    with alert_chain.alertmanager(tmp_path, webhook.url) as address:
        yield address


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


def all_but(*names: str) -> str:
    return ",".join(rule.name for rule in alert_rule.load() if rule.name not in names)


def watch(store: Store, webhook: str = "", alertmanager: str = "", only: str = "gpu_xid") -> AlertWatch:
    settings = Settings(alerts_off=all_but(only), alerts_webhook_urls=webhook, alerts_alertmanager_urls=alertmanager)
    return watch_with(store, settings)


def watch_with(store: Store, settings: Settings, owed: Remembered | None = None) -> AlertWatch:
    return AlertWatch(settings, store, store.write, Keeper(settings, store.query, Wanted()), owed)


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
    assert "XID 79" in webhook.told[0]["text"] and "NVIDIA's table of XID codes" in webhook.told[0]["text"]
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


def test_a_restart_forgets_nothing_that_a_webhook_is_owed_and_keeps_its_address_to_itself(
    store: Store, webhook: Webhook, tmp_path: Path
) -> None:
    node, owed = Node(store), Remembered(tmp_path / "owed.json")
    settings = Settings(alerts_off=all_but("gpu_xid"), alerts_webhook_urls=webhook.url)
    node.xid(NOW - 10 * SECOND, 0)
    node.xid(NOW, 79)
    webhook.status = 503
    watched = watch_with(store, settings, owed)
    watched.look(NOW)
    assert store.query("SELECT notified FROM alert")["notified"].to_pylist() == [False]
    assert webhook.url not in (tmp_path / "owed.json").read_text()
    webhook.status = 200
    again = watch_with(store, settings, owed)
    again.take_up(NOW + SECOND)
    again.look(NOW + SECOND)
    assert [t["state"] for t in webhook.told] == ["firing"]
    assert owed.read() == []


def test_a_receiver_that_does_not_answer_keeps_no_other_waiting(
    store: Store, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def request(pool: object, method: str, url: str, **given: object) -> object:
        tried.append(url)
        if "nobody" in url:
            raise urllib3.exceptions.ConnectTimeoutError(None, url, "no answer")
        return real(pool, method, url, **given)

    real = urllib3.PoolManager.request
    monkeypatch.setattr(urllib3.PoolManager, "request", request)
    node = Node(store)
    watched = watch(store, f"http://nobody.invalid/secret,{webhook.url}")
    node.xid(NOW - 10 * SECOND, 0)
    node.xid(NOW, 79)
    for second in range(5):
        watched.look(NOW + second * SECOND)
    assert [t["state"] for t in webhook.told] == ["firing"]
    assert tried == ["http://nobody.invalid/secret", webhook.url]
    assert store.query("SELECT notified FROM alert")["notified"].to_pylist() == [True]


def test_what_fired_of_a_rule_that_was_switched_off_is_resolved_at_the_receivers(
    store: Store, webhook: Webhook
) -> None:
    node = Node(store)
    node.xid(NOW - 10 * SECOND, 0)
    node.xid(NOW, 79)
    watch(store, webhook.url).look(NOW)
    watch(store, webhook.url, only="rows_lost").take_up(NOW + SECOND)
    assert [t["state"] for t in webhook.told] == ["firing", "resolved"]
    assert store.view("alert_state", {}).read_all()["state"].to_pylist() == ["resolved"]


def test_a_real_alertmanager_passes_on_firing_and_resolved(store: Store, webhook: Webhook, alertmanager: str) -> None:
    now = time.time_ns() - 400 * SECOND  # Alertmanager takes an end in the future for an alert that goes on.
    node, watched = Node(store), watch(store, alertmanager=alertmanager)
    node.xid(now - 10 * SECOND, 0)
    node.xid(now, 79)
    watched.look(now)
    until(lambda: len(webhook.told) >= 1)
    alert = webhook.told[0]["alerts"][0]
    assert (webhook.told[0]["status"], alert["labels"]["alertname"], alert["labels"]["gpu_uuid"]) == (
        "firing",
        "gpu_xid",
        "GPU-1",
    )
    assert "rule=gpu_xid" in alert["generatorURL"]
    assert alert["annotations"]["runbook"].startswith("NVIDIA's table of XID codes")
    for second in (301, 302, 308):
        node.xid(now + second * SECOND, 79)
        watched.look(now + second * SECOND)
    until(lambda: any(t["status"] == "resolved" for t in webhook.told))


def test_a_restart_does_not_fire_twice(store: Store, webhook: Webhook) -> None:
    node, watched = Node(store), watch(store, webhook.url)
    now = time.time_ns()
    node.xid(now - 10 * SECOND, 0)
    node.xid(now, 79)
    watched.look(now)
    again = watch(store, webhook.url)
    again.take_up(now)
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


class Clocks:
    """The correlator's own clocks: the wall clock steps where the test says, the monotonic one goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elapsed_ns = self.step_ns = 0
        monkeypatch.setattr(event_time.time, "time_ns", lambda: NOW + self.elapsed_ns + self.step_ns)
        monkeypatch.setattr(event_time.time, "monotonic_ns", lambda: self.elapsed_ns)


@pytest.mark.parametrize("step_s", [3600, -3600, 90 * 86_400, -90 * 86_400])
def test_a_step_of_the_correlators_own_clock_fires_and_resolves_nothing(
    store: Store, webhook: Webhook, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    clocks = Clocks(monkeypatch)
    node, watched = Node(store), watch(store, webhook.url)
    silent = watch(store, webhook.url, only="collector_silent")
    node.xid(NOW - 10 * SECOND, 0)
    node.xid(NOW - SECOND, 79)
    for second in range(0, 90, 3):
        clocks.elapsed_ns = second * SECOND
        clocks.step_ns = step_s * SECOND if 20 < second < 60 else 0
        at = NOW + second * SECOND
        own = {"boot_id": "b", "monotonic_ns": at, "boottime_ns": at, "realtime_ns": at, "half_width_ns": 100}
        node.says("clock_pair", time_ns=at, **own)
        for each in (watched, silent):
            each.look(each._time.now_ns())
        assert watched._time.refused_ns == clocks.step_ns
    assert [(t["rule"], t["state"]) for t in webhook.told] == [("gpu_xid", "firing")]


def test_a_clock_that_was_wrong_at_the_start_is_followed_once_the_rows_say_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch)
    clocks.step_ns = -86_400 * SECOND
    moment, node = event_time.EventTime(store.query), Node(store)
    assert moment.now_ns() == NOW - 86_400 * SECOND
    for number, wrong_s in enumerate((0, 7200, 0)):  # A node whose own time is wrong decides nothing.
        at = NOW + wrong_s * SECOND
        own = {"boot_id": "b", "monotonic_ns": at, "boottime_ns": at, "realtime_ns": at, "half_width_ns": 100}
        node.says("clock_pair", node=f"n{number}", time_ns=at, **own)
    clocks.step_ns, clocks.elapsed_ns = 0, SECOND
    assert moment.now_ns() == NOW + SECOND
    clocks.step_ns = SECOND // 2  # Slewed, as NTP does.
    assert (moment.now_ns(), moment.refused_ns) == (NOW + SECOND + SECOND // 2, 0)


def test_a_rule_that_must_hold_for_long_or_reads_a_long_time_is_looked_at_less_often(store: Store) -> None:
    off = all_but("gpu_xid", "gpu_memory_full", "tpot_objective")
    watched = watch_with(store, Settings(alerts_off=off, alerts_every_s=0.01))
    assert {rule.name for rule in watched._due()} == {"gpu_xid", "gpu_memory_full", "tpot_objective"}
    time.sleep(0.03)
    assert {rule.name for rule in watched._due()} == {"gpu_xid"}


class EnginePage:
    """A page of metrics in vLLM's form, on which the test says how many requests wait."""

    def __init__(self) -> None:
        self.waiting = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = f'vllm:num_requests_waiting{{model_name="m"}} {outer.waiting}\n'.encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_a_load_step_goes_from_a_real_prometheus_to_firing_and_back_to_resolved_at_a_webhook(
    tmp_path: Path, webhook: Webhook, alertmanager: str
) -> None:
    page = EnginePage()
    rules = shipped("QueueGrowing", s15="3s", s45="4s", for_="2s")
    with alert_chain.prometheus(tmp_path, alertmanager, page.address, rules) as server:
        page.waiting = 1
        history = "/api/v1/query?query=count_over_time(vllm:num_requests_waiting[1m])"
        until(lambda: alert_chain.asked(server + history) >= 5, 60)
        page.waiting = 40
        until(lambda: len(webhook.told) >= 1, 60)
        page.waiting = 0
        until(lambda: webhook.told[-1]["status"] == "resolved", 60)
    page.server.shutdown()
    page.server.server_close()
    fired = webhook.told[0]["alerts"][0]
    assert (webhook.told[0]["status"], fired["labels"]["rule"], fired["labels"]["instance"]) == (
        "firing",
        "queue_growing",
        page.address,
    )
    assert "requests wait at" in fired["annotations"]["summary"]
    assert fired["generatorURL"].startswith("http://")


def test_rows_that_come_late_and_out_of_order_make_no_alert_flap(store: Store, webhook: Webhook) -> None:
    node, watched = Node(store), watch(store, webhook.url)
    codes = [(second, 0.0 if second < 10 else 79.0) for second in range(40)]
    late = {second: second + (second * 7) % 5 for second, _ in codes}  # Up to four seconds, each its own.
    for now in range(50):
        for second, code in codes:
            if late[second] == now:
                node.xid(NOW + second * SECOND, code)
        watched.look(NOW + now * SECOND)
    assert [t["state"] for t in webhook.told] == ["firing"]
