"""The rule engine by itself: states, labels, missing input, restarts. Rules on recorded incidents: test_incidents.py."""

import json
import re
from collections.abc import Mapping

import pyarrow as pa
import pytest

from correlator.alerting import alert_rule, backtest
from correlator.alerting.alert_rule import Rule
from correlator.alerting.alerts import Alert, Alerts, batch
from warpline.errors import SchemaError, StoreError
from warpline.settings import Settings

SECOND = 1_000_000_000
HEADER = """-- {node} is at {value:.0f}.
-- severity: warning
-- for: 10s
-- threshold: most = 5; because five is enough
-- missing: no_data
-- runbook: look
SELECT 1"""


def rule(**changes: str) -> Rule:
    text = HEADER
    for old, new in changes.items():
        text = text.replace({"for_": "for: 10s", "missing": "missing: no_data"}[old], new)
    return alert_rule.parse("busy", text)


class Data:
    """What the rule's query answers, by the time that it is asked for."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self.error: str | None = None
        self.bound: Mapping[str, object] = {}

    def query(self, sql: str, parameters: Mapping[str, object]) -> pa.Table:
        self.bound = parameters
        if self.error:
            raise StoreError(self.error)
        columns = {"node": pa.string(), "value": pa.float64(), "firing": pa.bool_()}
        return pa.Table.from_pylist(self.rows, pa.schema(list(columns.items())))


def row(firing: bool | None, value: float | None = 7.0, node: str = "a") -> dict[str, object]:
    return {"node": node, "value": value, "firing": firing}


def states(changed: list[Alert]) -> list[tuple[str, str]]:
    return [(json.loads(a.labels).get("node", ""), a.state) for a in changed]


@pytest.fixture
def data() -> Data:
    return Data()


def test_an_instance_is_pending_for_its_time_then_fires_then_is_resolved(data: Data) -> None:
    alerts = Alerts([rule()], data.query)
    data.rows = [row(True)]
    assert states(alerts.evaluate(100 * SECOND)) == [("a", "pending")]
    assert alerts.evaluate(109 * SECOND) == []
    fired = alerts.evaluate(110 * SECOND)
    assert states(fired) == [("a", "firing")]
    assert (fired[0].summary, fired[0].value, fired[0].started_ns) == ("a is at 7.", 7.0, 100 * SECOND)
    data.rows = [row(False)]
    assert alerts.evaluate(111 * SECOND) == []
    assert states(alerts.evaluate(117 * SECOND)) == [("a", "resolved")]
    assert alerts.evaluate(130 * SECOND) == []


def test_a_condition_that_does_not_last_never_fires(data: Data) -> None:
    alerts = Alerts([rule()], data.query)
    for second, firing in enumerate([True] * 9 + [False] + [True] * 9):
        data.rows = [row(firing)]
        assert ("a", "firing") not in states(alerts.evaluate(second * SECOND))


def test_a_short_gap_does_not_make_a_firing_alert_flap(data: Data) -> None:
    alerts = Alerts([rule(for_="for: 0s")], data.query)
    data.rows = [row(True)]
    assert states(alerts.evaluate(0)) == [("a", "firing")]
    for second in range(1, 30):
        data.rows = [row(second % 4 == 0)]
        assert alerts.evaluate(second * SECOND) == []


def test_instances_are_told_apart_by_their_labels(data: Data) -> None:
    alerts = Alerts([rule(for_="for: 0s")], data.query)
    data.rows = [row(True, node="a"), row(False, node="b"), row(True, node="c")]
    assert states(alerts.evaluate(0)) == [("a", "firing"), ("c", "firing")]


def test_missing_input_is_no_data_and_never_all_is_well(data: Data) -> None:
    alerts = Alerts([rule()], data.query)
    assert states(alerts.evaluate(0)) == [("", "no_data")]
    data.rows = [row(None, None)]
    assert ("a", "no_data") in states(alerts.evaluate(SECOND))
    data.rows = [row(False)]
    assert ("a", "no_data") not in states(alerts.evaluate(2 * SECOND))
    assert alerts.active() == [a for a in alerts.active() if a.state != "no_data" or json.loads(a.labels) == {}]


def test_a_firing_alert_stays_when_its_input_goes_missing(data: Data) -> None:
    alerts = Alerts([rule(for_="for: 0s")], data.query)
    data.rows = [row(True)]
    alerts.evaluate(0)
    data.rows = [row(None, None)]
    assert alerts.evaluate(60 * SECOND) == []
    assert [a.state for a in alerts.active()] == ["firing"]


def test_no_rows_are_the_good_case_of_a_rule_that_says_so(data: Data) -> None:
    assert Alerts([rule(missing="missing: quiet")], data.query).evaluate(0) == []


def test_a_rule_that_cannot_be_evaluated_says_so_and_is_no_data(data: Data) -> None:
    alerts = Alerts([rule()], data.query)
    data.error = "no column nodes"
    assert states(alerts.evaluate(0)) == [("", "no_data")]
    assert alerts.errors == {"busy": "no column nodes"}


def test_a_restart_takes_up_where_it_stopped(data: Data) -> None:
    first = Alerts([rule()], data.query)
    data.rows = [row(True)]
    kept = [each for second in (0, 10) for each in batch(first.evaluate(second * SECOND)).rows.to_pylist()]
    second = Alerts([rule()], data.query)
    assert second.restore(kept, 11 * SECOND) == []
    assert second.evaluate(11 * SECOND) == []
    assert [(a.state, a.started_ns) for a in second.active()] == [("firing", 0)]


def stored(alerts: Alerts, *seconds: int) -> list[dict[str, object]]:
    return [each for second in seconds for each in batch(alerts.evaluate(second * SECOND)).rows.to_pylist()]


def test_what_was_pending_or_without_data_and_is_no_more_is_told(data: Data) -> None:
    alerts = Alerts([rule()], data.query)
    assert states(alerts.evaluate(0)) == [("", "no_data")]
    data.rows = [row(True)]
    assert sorted(states(alerts.evaluate(SECOND))) == [("", "inactive"), ("a", "pending")]
    data.rows = [row(False)]
    assert states(alerts.evaluate(2 * SECOND)) == [("a", "inactive")]
    assert alerts.active() == []


def test_a_restart_does_not_take_up_what_was_pending_before_it_and_is_no_more(data: Data) -> None:
    first = Alerts([rule()], data.query)
    data.rows = [row(True)]
    kept = stored(first, 0)
    data.rows = [row(False)]
    kept += stored(first, 3)
    second = Alerts([rule()], data.query)
    assert second.restore(kept, 9 * SECOND) == []
    data.rows = [row(True)]
    assert states(second.evaluate(12 * SECOND)) == [("a", "pending")]


@pytest.mark.parametrize(("away_s", "state"), [(12, "firing"), (3600, "pending")])
def test_what_is_pending_fires_after_a_restart_unless_nobody_looked_for_long(
    data: Data, away_s: int, state: str
) -> None:
    data.rows = [row(True)]
    kept, again = stored(Alerts([rule()], data.query), 0), Alerts([rule()], data.query)
    given_up = again.restore(kept, away_s * SECOND)
    assert states(given_up) == ([] if state == "firing" else [("a", "inactive")])
    assert states(again.evaluate(away_s * SECOND)) == [("a", state)]


def test_what_fired_of_a_rule_that_is_evaluated_no_more_is_resolved_at_the_next_start(data: Data) -> None:
    first = Alerts([rule(for_="for: 0s")], data.query)
    data.rows = [row(True)]
    kept = stored(first, 0)
    assert [(a.rule, a.state, a.since_ns) for a in Alerts([], data.query).restore(kept, SECOND)] == [
        ("busy", "resolved", SECOND)
    ]


def test_a_firing_alert_stays_when_all_rows_of_its_rule_are_gone_and_is_not_called_well_in_the_end(data: Data) -> None:
    alerts = Alerts([rule(for_="for: 0s")], data.query)
    data.rows = [row(True)]
    alerts.evaluate(0)
    data.rows = []
    assert states(alerts.evaluate(10 * SECOND)) == [("", "no_data")]
    assert sorted(a.state for a in alerts.active()) == ["firing", "no_data"]
    assert alerts.evaluate(309 * SECOND) == []
    (ended,) = alerts.evaluate(311 * SECOND)
    assert ended.state == "resolved" and ended.summary.startswith("no longer seen, which is not to say that it is well")


def test_a_rule_that_breaks_resolves_nothing(data: Data) -> None:
    alerts = Alerts([rule(for_="for: 0s", missing="missing: quiet")], data.query)
    data.rows = [row(True)]
    alerts.evaluate(0)
    data.error = "the disk is away"
    for second in (1, 60, 200):
        assert "resolved" not in {a.state for a in alerts.evaluate(second * SECOND)}
    data.error = None
    assert "resolved" not in {a.state for a in alerts.evaluate(201 * SECOND)}
    data.rows = []
    alerts.evaluate(210 * SECOND)
    assert states(alerts.evaluate(216 * SECOND)) == [("a", "resolved")]


def test_one_of_several_that_is_gone_is_resolved_with_what_is_known(data: Data) -> None:
    alerts = Alerts([rule(for_="for: 0s")], data.query)
    data.rows = [row(True, node="a"), row(True, node="b")]
    alerts.evaluate(0)
    data.rows = [row(True, node="b")]
    alerts.evaluate(SECOND)
    (ended,) = alerts.evaluate(7 * SECOND)
    assert (ended.state, ended.summary) == (
        "resolved",
        "no longer seen, which is not to say that it is well: a is at 7.",
    )


def test_a_rule_about_some_nodes_is_off_until_a_setting_names_them_and_asked_by_name_about_all() -> None:
    assert "edge_latency" not in {found.name for found in alert_rule.in_force(Settings())}
    (asked,) = backtest.chosen(["edge_latency"])
    assert asked.parameters(3, {})["nodes"] == ".*"
    some = Settings(alerts_edge_nodes="edge-*, store.7")
    (found,) = [each for each in alert_rule.in_force(some) if each.name == "edge_latency"]
    named = [name for name in ("edge-1", "store.7", "storex7", "my-edge-1") if re.fullmatch(found.nodes, name)]
    assert named == ["edge-1", "store.7"]
    assert backtest.chosen(["edge_latency"], some) == [found]


def test_a_rule_that_is_switched_off_and_does_not_exist_is_said() -> None:
    with pytest.raises(SchemaError, match="no rule 'gpu_xids'"):
        alert_rule.in_force(Settings(alerts_off="gpu_xid,gpu_xids"))
    with pytest.raises(SchemaError, match="nodes is 'alerts_edge'"):
        rule(missing="missing: quiet\n-- nodes: alerts_edge; why")


def test_a_threshold_is_bound_and_can_be_overridden(data: Data) -> None:
    rules = [rule()]
    Alerts(rules, data.query).evaluate(3)
    assert data.bound == {"now_ns": 3, "most": 5.0}
    Alerts(rules, data.query, alert_rule.overrides("busy.most=9", rules)).evaluate(3)
    assert data.bound == {"now_ns": 3, "most": 9.0}
    with pytest.raises(SchemaError, match=r"no threshold 'busy\.least'"):
        alert_rule.overrides("busy.least=1", rules)


@pytest.mark.parametrize("found", alert_rule.load(), ids=lambda found: found.name)
def test_every_shipped_rule_says_what_why_and_what_to_do(found: Rule) -> None:
    assert found.summary.endswith(".")
    assert "{value" in found.summary or found.name == "source_down"
    assert len(found.runbook) > 20
    assert all(len(t.reason) > 10 and f"${t.name}" in found.sql for t in found.thresholds)


def test_the_rules_that_users_were_promised_are_there() -> None:
    names = {found.name for found in alert_rule.load()}
    assert {
        "gpu_saturated",
        "gpu_idle_while_waiting",
        "ttft_objective",
        "prefill_delays_others",
        "unexplained_share",
    } <= names
