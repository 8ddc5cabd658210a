"""What makes collectors keep a window, on which nodes, and how often: on rows in a real store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from correlator.alerting import alert_rule
from correlator.alerting.alerts import Alert
from correlator.alerting.keep import Keeper
from correlator.remembered import Remembered, monotonic_s
from correlator.storage.store import Store
from correlator.wanted import Wanted
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

SECOND = 1_000_000_000
NOW = 1_790_000_000 * SECOND
RULES = alert_rule.load()
SETTINGS = Settings(recorder_before_s=30, recorder_after_s=20, recorder_slow_ttft_ms=2000, recorder_pause_s=600)
FIRING = Alert("gpu_xid", '{"gpu_uuid": "GPU-1", "node": "n2"}', "firing", "critical", "", 79, NOW, NOW - 5 * SECOND)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(state_dir=str(tmp_path), correlator_disk_reserve_mb=1))
    yield made
    made.close()


@pytest.fixture
def wanted() -> Wanted:
    return Wanted()


@pytest.fixture
def keeper(store: Store, wanted: Wanted) -> Keeper:
    return Keeper(SETTINGS, store.query, wanted)


def write(store: Store, name: str, batch_id: str, **columns: object) -> None:
    table = schema.table(name)
    store.write([Batch(table, table.batch(columns, rows=1), batch_id)])


def request(store: Store, number: int, start_ns: int, ttft_ns: int | None, node: str = "n1") -> None:
    """Write one exchange: its server, client, proxy and engine are on four nodes."""
    ends = {} if ttft_ns is None else {"first_body_ns": start_ns + ttft_ns, "end_ns": start_ns + ttft_ns + SECOND}
    here, there = {"local_address": "10.0.0.1", "local_port": 80}, {"peer_address": "10.0.0.2", "peer_port": number}
    back = {"local_address": "10.0.0.2", "local_port": number, "peer_address": "10.0.0.1", "peer_port": 80}
    same = {
        "ordinal": 0,
        "request_id": f"r-{number}",
        "path": "/v1/completions",
        "method": "POST",
        "start_ns": start_ns,
    }
    seen = {**same, **ends, "connection_id": number}
    write(
        store,
        "http_exchange",
        f"s/{number}",
        **seen,
        **here,
        **there,
        node=node,
        side="server",
        process_uid=f"{node}:1:2",
    )
    write(store, "http_exchange", f"c/{number}", **seen, **back, node="client", side="client", process_uid="client:1:2")
    write(store, "hop", f"h/{number}", start_ns=start_ns, node="mesh", request_id=f"r-{number}")
    alias = {"time_ns": start_ns, "attempt_uid": f"a-{number}", "evidence": "exact"}
    aliases = [
        {"kind": "exchange", "scope": None, "value": f"{node}/{number}/0/server"},
        {"kind": "internal_id", "scope": "engine:3:4", "value": f"i-{number}"},
    ]
    for each in aliases:
        write(store, "alias", f"{each['kind']}/{number}", **alias, **each)


def asked(wanted: Wanted, *nodes: str) -> dict[str, list[list[int]]]:
    return {node: wanted.of(node)["windows"] for node in nodes}


def test_an_alert_keeps_the_time_around_it_on_its_node_and_raises_the_detail_there(
    keeper: Keeper, wanted: Wanted
) -> None:
    keeper.alerts([FIRING], RULES, NOW)
    window = [NOW - 35 * SECOND, NOW + 20 * SECOND]
    assert asked(wanted, "n1", "n2") == {"n1": [], "n2": [window]}
    assert wanted.of("n2")["detail"] == {"*": 3}
    assert wanted.of("n1")["detail"] == {}


@pytest.mark.parametrize(
    "changed",
    [
        replace(FIRING, state="pending"),
        replace(FIRING, state="resolved"),
        replace(FIRING, rule="rows_lost"),
        replace(FIRING, rule="collector_silent"),
    ],
    ids=lambda changed: f"{changed.rule} {changed.state}",
)
def test_what_does_not_fire_and_rules_about_the_pipeline_keep_nothing(
    keeper: Keeper, wanted: Wanted, changed: Alert
) -> None:
    keeper.alerts([changed], RULES, NOW)
    assert asked(wanted, "n2") == {"n2": []}


def test_one_rule_keeps_one_window_a_node_for_a_while(keeper: Keeper, wanted: Wanted) -> None:
    other = replace(FIRING, labels='{"gpu_uuid": "GPU-2", "node": "n2"}')
    keeper.alerts([FIRING, other], RULES, NOW)
    keeper.alerts([replace(FIRING, rule="gpu_throttled")], RULES, NOW + SECOND)
    assert len(wanted.of("n2")["windows"]) == 2
    assert keeper.counts == {"gpu_xid": 1, "gpu_throttled": 1}
    assert [each["cause"] for each in keeper.described()] == ["gpu_throttled", "gpu_xid"]


def test_a_slow_request_keeps_its_window_on_every_node_that_served_it(
    store: Store, keeper: Keeper, wanted: Wanted
) -> None:
    request(store, 1, NOW - 10 * SECOND, 3 * SECOND)
    request(store, 2, NOW - 9 * SECOND, SECOND, node="n7")
    keeper.slow(NOW)
    window = [NOW - 40 * SECOND, NOW + 14 * SECOND]
    served = ("n1", "client", "mesh", "engine")
    assert asked(wanted, *served, "n7") == {**{each: [window] for each in served}, "n7": []}


def test_a_request_that_still_waits_for_its_first_byte_is_slow_too(
    store: Store, keeper: Keeper, wanted: Wanted
) -> None:
    request(store, 1, NOW - 10 * SECOND, None)
    keeper.slow(NOW)
    assert asked(wanted, "engine") == {"engine": [[NOW - 40 * SECOND, NOW + 20 * SECOND]]}


def test_an_alert_without_a_node_is_about_the_nodes_of_its_requests(
    store: Store, keeper: Keeper, wanted: Wanted
) -> None:
    request(store, 1, NOW - 10 * SECOND, SECOND)
    keeper.alerts([replace(FIRING, rule="edge_latency", labels='{"path": "/v1/completions"}')], RULES, NOW)
    keeper.alerts([replace(FIRING, rule="ttft_objective", labels='{"model": "unknown"}')], RULES, NOW)
    assert {node: len(found) for node, found in asked(wanted, "n1", "engine", "mesh", "idle").items()} == {
        "n1": 2,
        "engine": 2,
        "mesh": 2,
        "idle": 0,
    }


def test_an_alert_about_no_request_that_is_known_asks_all_nodes(keeper: Keeper, wanted: Wanted) -> None:
    keeper.alerts([replace(FIRING, labels='{"target": "10.0.0.9:8000"}')], RULES, NOW)
    assert len(wanted.of("any")["windows"]) == 1


def test_a_person_may_ask_for_a_window_or_a_request_at_any_time(store: Store, keeper: Keeper, wanted: Wanted) -> None:
    request(store, 1, NOW - 10 * SECOND, SECOND)
    uid = store.query("SELECT request_uid, start_ns FROM request").to_pylist()[0]
    for _ in range(2):
        assert {each.node for each in keeper.asked_request(**uid)} == {"n1", "client", "mesh", "engine"}
    assert keeper.asked_request("unknown", NOW) == []
    keeper.asked(NOW, NOW + SECOND, "n1")
    assert len(wanted.of("n1")["windows"]) == 3
    assert wanted.of("n1")["detail"] == {}


def test_a_look_up_that_fails_costs_a_window_and_not_the_alerts(store: Store, wanted: Wanted) -> None:
    def broken(sql: str, bound: object = None) -> None:
        store.query("SELECT nothing FROM nowhere")

    keeper = Keeper(SETTINGS, broken, wanted)  # type: ignore[arg-type]  # it never returns
    keeper.look([replace(FIRING, labels="{}")], RULES, NOW)
    assert keeper.described() == []


def test_a_restart_does_not_keep_the_same_cause_again(store: Store, tmp_path: Path) -> None:
    asks, keeps = Remembered(tmp_path / "wanted.json"), Remembered(tmp_path / "kept.json")
    Keeper(SETTINGS, store.query, Wanted(asks), keeps).alerts([FIRING], RULES, NOW)
    wanted = Wanted(asks)
    keeper = Keeper(SETTINGS, store.query, wanted, keeps)
    keeper.alerts([FIRING], RULES, NOW + SECOND)
    assert wanted.of("n2") == {"detail": {"*": 3}, "windows": [[NOW - 35 * SECOND, NOW + 20 * SECOND]]}
    assert [each["cause"] for each in keeper.described()] == ["gpu_xid"]


@pytest.mark.parametrize(
    "damage", ["", "{", "[1]", '[{"until_s": "soon"}]', '{"kept": 3}', '[{"kept": {"node": 1}}]', "7"]
)
def test_a_memory_that_is_damaged_is_begun_anew(store: Store, tmp_path: Path, damage: str) -> None:
    asks, keeps = Remembered(tmp_path / "wanted.json"), Remembered(tmp_path / "kept.json")
    for file in ("wanted.json", "kept.json"):
        (tmp_path / file).write_text(damage)
    wanted = Wanted(asks)
    Keeper(SETTINGS, store.query, wanted, keeps).alerts([FIRING], RULES, NOW)
    assert Wanted(asks).of("n2") == wanted.of("n2") != {"detail": {}, "windows": []}


def test_a_wall_clock_that_was_put_back_prolongs_nothing_beyond_the_longest_wish(tmp_path: Path) -> None:
    ahead = [{"until_s": time.time() + 86_400, "node": "", "detail": {"*": 3}, "windows": []}]
    Remembered(tmp_path / "wanted.json").write(ahead)
    assert Wanted(Remembered(tmp_path / "wanted.json")).of("any")["detail"] == {"*": 3}
    assert monotonic_s(time.time() + 86_400, 3600) - time.monotonic() <= 3600
