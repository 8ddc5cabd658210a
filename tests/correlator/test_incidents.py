"""Sample incidents, recorded from the running model server's double: the rules that must fire do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from correlator import explain
from correlator.alerting import alert_rule, backtest
from correlator.storage.store import Store
from tests import rule_table
from warpline import bundle, sample, schema
from warpline.cli import main
from warpline.sample import Manifest
from warpline.settings import Settings

CASES = rule_table.incidents()
TELLING = [case for case in CASES if case.name != "healthy" and not rule_table.incident(case).baseline]
"""Incidents that their own time tells of: one that is an incident only beside another week is not told by a request."""
INCIDENTS = [*TELLING, *(case for case in CASES if rule_table.incident(case).baseline)]
_SIMULATED = ("gpu_kernel", "launch", "engine_step", "step_member", "engine_request", "engine_event")
_LARGEST_BYTES = 1_500_000
SLOWEST = "SELECT request_uid FROM request WHERE path = '/v1/completions' ORDER BY duration_ns DESC LIMIT 1"


@dataclass
class Recorded:
    """A sample incident in a store of its own, for all that is asked of it: to join it takes longer than to ask."""

    case: Path
    store: Store
    found: Manifest

    @cached_property
    def slowest(self) -> explain.Explanation:
        """What is told of its slowest inference request."""
        (chosen,) = self.store.query(SLOWEST)["request_uid"].to_pylist()
        return explain.explain(lambda view, **asked: self.store.view(view, asked).read_all(), chosen)

    def fired(self, names: list[str]) -> set[str]:
        """Which of the rules called `names` fire."""
        window, thresholds = (self.found.start_ns, self.found.end_ns), rule_table.incident(self.case).thresholds
        return {each.rule for each in backtest.run(backtest.chosen(names), self.store, window, thresholds)[0]}


@pytest.fixture(scope="module")
def recorded(request: pytest.FixtureRequest) -> Iterator[Recorded]:
    with backtest.opened(request.param, Settings(correlator_memory_limit_mb=512)) as (store, found):
        yield Recorded(request.param, store, found)


def of(cases: list[Path]) -> pytest.MarkDecorator:
    """Ask the test of each of the cases, one after the other: pytest does all that is asked of one before the next."""
    return pytest.mark.parametrize("recorded", cases, ids=lambda case: case.name, indirect=True)


@pytest.mark.slow
@of(TELLING)
def test_the_rules_that_an_incident_is_about_fire_on_it(recorded: Recorded) -> None:
    wanted = rule_table.incident(recorded.case).fires
    assert wanted
    assert recorded.fired(wanted) == set(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in INCIDENTS if case not in TELLING], ids=lambda case: case.name)
def test_the_rules_that_an_incident_is_about_fire_on_it_beside_the_week_before(case: Path) -> None:
    wanted = rule_table.incident(case).fires
    with backtest.opened(case, Settings(correlator_memory_limit_mb=512), rule_table.baseline(case)) as (store, found):
        assert wanted
        assert Recorded(case, store, found).fired(wanted) == set(wanted)


@pytest.mark.slow
@of(TELLING)
def test_the_slowest_request_of_an_incident_tells_of_the_incident(recorded: Recorded) -> None:
    sentences = [cause.sentence for cause in [*recorded.slowest.causes, *recorded.slowest.around]]
    finding = rule_table.incident(recorded.case).finding
    assert finding and any(finding in sentence for sentence in sentences), sentences


STANDS_OUT = {
    "clock_step": [
        "the wall clock of gpu-node-0 was set forward by 60 min, 1.67 s before it began",
        "no kernel of it ran for the last 155 ms, while its engine still had it; half of 62 peers had 3.67 ms of such time"
        " or less",
    ],
    "cold_start": [
        "a cold start: pod llm/engine-1 was created 14.1 s before it began and was still starting, after 14.5 s; it did not"
        " serve this request, but started on its node",
    ],
    "gpu_memory_error": [
        "its GPU 0 reported XID 94 (contained ECC error), 3.07 s before it began",
        "1 memory error of its GPU 0 (ecc double volatile), 3.07 s before it began",
    ],
    "gpu_pressed": ["its GPU 0 had 0.9% of its memory left"],
    "host_stalls": ["its GPU 0 was 3% active (SM): requests waited for the host, not for it"],
    "long_prefill": [
        "its tokens waited for the prompts of others in the same steps: 266 ms, by cmpl-6e772528997e054d94c52ccb-0ac1df23"
    ],
    "noisy_neighbour": [
        "another process worked on its GPU meanwhile (python3.11 pid 1199): 1.04 s of busy time, at least 862 ms of it while"
        " no kernel of this request ran",
        "for up to 134 ms more its GPU ran neither its kernels nor the other process's: the host did not launch in time",
    ],
    "overload": [
        "GPU 0 of its node was 97% active (SM): saturated",
        "up to 59 requests waited in the queue of the engine at 127.0.0.1:33561",
        "for 3.92 s (100% of its time) it was at its server, and what an engine did for it is not on record",
    ],
    "policy_drops": ["for 76.1 ms (79% of its time) it waited at its server, not yet in an engine"],
    "preemption_storm": [
        "it was preempted 3 times: the KV cache had no room for it, and it waited at most 4.18 s to go on (its last"
        " return is not on record); 4.02 ms of GPU time went to compute its context again",
        "its engine preempted 27 requests while it lasted, 53 times in all",
    ],
    "prefill_decode_imbalance": ["up to 91 requests waited in the queue of the engine at 127.0.0.1:40775 (prefill)"],
    "slow_kernels": [
        "no kernel of it ran for the last 218 ms, while its engine still had it; half of 71 peers had 1.68 ms of such time"
        " or less",
    ],
    "thermal_throttling": ["its GPU 0 was throttled (thermal) for 551 ms of the 556 ms that it lasted"],
}
"""Incident → what must be told first of its slowest request, in this order."""
NEARBY = {
    "collector_stopped": [
        "the collector on gpu-node-0 was silent for 20.8 s, from 14.4 s before it began: its readings of the node's clocks"
        " are missing; this request was seen all the same, 100% of its time by phase",
    ],
    "packet_loss": [
        "packets were lost: 10 of 256 exchanges on gpu-node-0, within a minute of it, had segments sent again more than"
        " once; its own connection sent none again",
    ],
}
"""Incident → what happened around its slowest request, which it did not slow."""


@pytest.mark.slow
@of(INCIDENTS)
def test_what_stands_out_of_the_slowest_request_begins_with_what_is_rare_and_has_a_name(recorded: Recorded) -> None:
    found, wanted = recorded.slowest, STANDS_OUT.get(recorded.case.name, [])
    nearby = NEARBY.get(recorded.case.name, [])
    assert wanted or nearby
    assert [cause.sentence for cause in found.causes[: len(wanted)]] == wanted
    assert [cause.sentence for cause in found.around[: len(nearby)]] == nearby
    assert not any("it ended" in cause.sentence for cause in found.causes), "what came after it is no reason of it"


HEALTHY = [rule_table.SAMPLES / "healthy"]


@pytest.mark.slow
@of(HEALTHY)
def test_nothing_is_told_from_around_the_slowest_request_of_the_healthy_recording(recorded: Recorded) -> None:
    assert recorded.slowest.around == []
    assert [cause.kind for cause in recorded.slowest.causes] == ["time"], "what its peers have alike is no reason"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_sample_incident_has_golden_rows_of_its_requests_and_losses(case: Path) -> None:
    # tests/warpline/test_sample.py holds the rows of every sample trace against them.
    more = {"cold_start"} if case.name == "cold_start" else set()
    assert set(sample.load(case).expected) == {"request_summary", "loss_total"} | more


@pytest.mark.slow
@of(HEALTHY)
def test_no_rule_fires_on_the_healthy_recording_nor_would_with_thresholds_a_tenth_off_either_way(
    recorded: Recorded,
) -> None:
    rules, window = alert_rule.load(), (recorded.found.start_ns, recorded.found.end_ns)
    for factor in (1.0, 0.9, 1.1):
        thresholds = {f"{rule.name}.{each.name}": each.default * factor for rule in rules for each in rule.thresholds}
        assert backtest.run(rules, recorded.store, window, thresholds)[0] == []


@pytest.mark.slow
def test_a_rule_is_tried_on_a_bundle_with_another_as_the_week_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpline.log.start", lambda level: None)
    files = [tmp_path / f"{name}.warpline" for name in ("slow_kernels", "healthy")]
    for file in files:
        bundle.pack(rule_table.SAMPLES / file.stem, file)
    test = ["alerts", "test", "kernel_time_per_token_up", "--on", str(files[0])]
    assert main(test) == 0
    assert "0 firings of 1 rules" in capsys.readouterr().out
    assert main([*test, "--baseline", str(files[1])]) == 0
    assert "1 firings of 1 rules" in capsys.readouterr().out


@pytest.mark.slow
def test_a_threshold_is_chosen_on_a_table_of_rules_and_incidents(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpline.log.start", lambda level: None)
    cases = [str(rule_table.SAMPLES / name) for name in ("thermal_throttling", "healthy")]
    rules = ["gpu_throttled", "edge_latency", "kv_transfer_slow", "interconnect_saturated"]
    assert main(["alerts", "test", *rules, "--on", *cases]) == 0
    table = capsys.readouterr().out.partition("rules and incidents")[2]
    cells = {
        line.split("│")[1].strip(): [each.strip() for each in line.split("│")[2:4]]
        for line in table.splitlines()
        if "│" in line
    }
    assert cells["gpu_throttled"] == ["after 23 s, 56 s", "0"]
    assert cells["edge_latency"][0].startswith("after 44 s")
    assert cells["kv_transfer_slow"] == ["nothing of its kind"] * 2
    assert cells["interconnect_saturated"] == ["no data"] * 2
    monkeypatch.setenv("WARPLINE_ALERTS_THRESHOLDS", "gpu_throttled.most_ratio=0.5")
    assert main(["alerts", "test", "--on", cases[0]]) == 0
    said = capsys.readouterr().out
    assert "0 firings of 25 rules" in said and "so not tried (name them to try them): edge_latency" in said
    tried = ["--threshold", "gpu_throttled.most_ratio=0.05"]
    assert main(["alerts", "test", "gpu_throttled", "--on", cases[0], *tried]) == 0
    assert "1 firings of 1 rules" in capsys.readouterr().out
    assert main(["alerts", "test", "--on", cases[0], "--threshold", "gpu_throttled.ratio=1"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["healthy", "long_prefill", "overload"])
def test_the_same_kernels_under_another_load_are_not_slower_than_a_week_before(baseline: str) -> None:
    (rule,) = backtest.chosen(["kernel_time_per_token_up"])
    earlier, settings = rule_table.SAMPLES / baseline, Settings(correlator_memory_limit_mb=512)
    with backtest.opened(rule_table.SAMPLES / "healthy", settings, earlier) as (store, found):
        assert sample.load(earlier).rows["step_member"] < store.query("FROM step_member").num_rows
        assert backtest.run([rule], store, (found.start_ns, found.end_ns))[0] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_readme_says_what_is_simulated_which_alerts_and_which_finding_must_come_out(case: Path) -> None:
    said, meant = (case / "README.md").read_text(encoding="utf-8"), rule_table.incident(case)
    assert "the GPU is simulated" in said
    assert {*re.findall(r"^- `(\w+)`$", said, re.MULTILINE)} == set(meant.fires)
    assert bool(meant.finding) == (case in TELLING)
    if not meant.baseline:
        assert (meant.finding or "nothing happened around it") in said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_firings_hold_what_an_incident_is_about(case: Path) -> None:
    found = rule_table.fired(case)
    assert set(rule_table.incident(case).fires) <= set(found)
    if case.name == "healthy":
        assert found == {}


def test_the_table_of_rules_and_incidents_is_current_and_every_silent_rule_has_a_reason() -> None:
    assert rule_table.PAGE.read_text(encoding="utf-8") == rule_table.page(), "run `make golden`"
    heard = {rule for case in CASES for rule in rule_table.fired(case)}
    assert {rule.name for rule in alert_rule.load()} - heard == set(rule_table.SILENT)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_comes_of_the_gpu_double_says_that_it_is_simulated_and_a_sample_is_small(case: Path) -> None:
    found = sample.load(case)
    assert {path.stem for path in case.glob("*.parquet")} == set(found.rows)
    for name in _SIMULATED:
        if name in found.rows:
            assert pq.read_table(case / f"{name}.parquet")["simulated"].to_pylist() == [True] * found.rows[name]
    # An exporter's rows have what its page says: the device's name.
    assert all("(simulated)" in name for name in pq.read_table(case / "gpu.parquet")["model"].to_pylist())
    assert sum(path.stat().st_size for path in case.glob("*.parquet")) < _LARGEST_BYTES


def test_a_pod_that_comes_in_a_recording_is_read_from_when_it_is_there_and_nothing_is_lost_before() -> None:
    case = rule_table.SAMPLES / "cold_start"
    states = pq.read_table(case / "container_state.parquet").to_pylist()
    (started_ns,) = {row["time_ns"] for row in states if row["kind"] == "started"}
    for table, column in (("engine_sample", "target"), ("gpu_sample", "gpu_uuid")):
        first: dict[str, int] = {}
        for row in pq.read_table(case / f"{table}.parquet").to_pylist():
            first[row[column]] = min(first.get(row[column], row["time_ns"]), row["time_ns"])
        old, new = sorted(first.values())
        assert old < started_ns < new < started_ns + 15 * 10**9
    assert "loss" not in sample.load(case).rows


def test_a_wall_clock_that_steps_by_an_hour_moves_no_row() -> None:
    case = rule_table.SAMPLES / "clock_step"
    found = sample.load(case)
    pairs = pq.read_table(case / "clock_pair.parquet").sort_by("time_ns").to_pylist()
    ahead = [round((row["realtime_ns"] - row["time_ns"]) / 1e9) for row in pairs]
    assert ahead == sorted(ahead) and {*ahead} == {0, 3600}
    for name in set(found.rows) - {"clock_pair", "node", "process", "gpu", "connection"}:
        times = pq.read_table(case / f"{name}.parquet")[schema.table(name).time].to_pylist()
        assert found.start_ns <= min(times) and max(times) < found.end_ns < found.start_ns + 60 * 10**9


@of([rule_table.SAMPLES / "gpu_memory_error"])
def test_what_begins_after_the_end_of_a_recording_is_no_firing(recorded: Recorded) -> None:
    assert "collector_silent" not in recorded.fired(["collector_silent"])
