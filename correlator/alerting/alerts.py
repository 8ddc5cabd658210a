"""Alert rules on the joined data: evaluated, kept across restarts, told to receivers.

An instance of a rule is its labels. It goes inactive → pending → firing → resolved on the time of the data given to
`evaluate`, never on the wall clock, so that a back-test over a recorded incident says what would have happened. Missing
input is `no_data`, a state of its own, never "all is well": what fires goes on firing without it for a while, and what is
resolved then says why. What was pending or without data and is so no more is
`inactive`. Every change is a row of the table `alert`; the last rows are the state that a restart takes up.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from correlator.alerting.alert_rule import Rule
from warpline import schema
from warpline.batch import Batch
from warpline.errors import WarplineError

log = logging.getLogger(__name__)

ALERT = schema.table("alert")
Query = Callable[[str, Mapping[str, object]], pa.Table]
"""Runs SQL with bound parameters on the store."""

_NOT_LABELS = ("firing", "value", "name")
_KEEP_FIRING_NS = 5_000_000_000
"""Time that an instance must be quiet before it is resolved: late rows must not make it flap."""
_BLIND_NS = 300_000_000_000
"""Time for which an instance goes on firing though its rule has no data: an exporter that dies makes nothing well. No
longer: what it was about may be gone for good."""
_NOT_SEEN = "no longer seen, which is not to say that it is well: "
_UNSEEN_NS = 60_000_000_000
"""Time for which nobody may have looked at a pending instance, beyond its rule's `for`: what it was says nothing then."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One instance of one rule, in its state since `since_ns`; `started_ns` is when its condition began to hold."""

    rule: str
    labels: str
    """The labels as JSON with sorted keys: the instance's name."""
    state: str
    severity: str
    summary: str
    value: float | None
    since_ns: int
    started_ns: int
    quiet_since_ns: int | None = None
    blind_since_ns: int | None = None
    runbook: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others."""
        return self.rule, self.labels


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one evaluation of one rule said of one instance."""

    labels: str
    firing: bool | None
    value: float | None
    summary: str


Told = Callable[[Rule, int, Sequence[Outcome]], None]
"""Hears what one evaluation of one rule, as of a moment, said of its instances."""


class Alerts:
    """The rules, and the state of their instances."""

    def __init__(
        self,
        rules: Sequence[Rule],
        query: Query,
        thresholds: Mapping[str, float] | None = None,
        told: Told | None = None,
    ) -> None:
        """Evaluate `rules` by `query`; `thresholds` overrides their numbers; `told` hears what each evaluation said."""
        self.rules, self._query, self._thresholds = rules, query, thresholds or {}
        self._now = query
        self._told = told
        self.states: dict[tuple[str, str], Alert] = {}
        self.errors: dict[str, str] = {}

    def restore(self, rows: Iterable[Mapping[str, object]], now_ns: int) -> list[Alert]:
        """Take up the state that rows of `alert` hold, oldest first; return what does not go on, in its new state.

        That is what is pending for longer than its rule asks for, since nobody looked meanwhile, and what belongs to a rule
        that is evaluated no more.
        """
        rules = {rule.name: rule for rule in self.rules}
        for row in rows:
            alert = _stored(row)
            earlier = self.states.get(alert.key)
            if earlier is not None and alert.state == "firing" and earlier.state == "pending":
                alert = replace(alert, started_ns=earlier.started_ns)
            self.states[alert.key] = alert
        given_up = [each for each in self.states.values() if not _goes_on(each, rules.get(each.rule), now_ns)]
        for each in given_up:
            del self.states[each.key]
        for key, each in self.states.items():
            self.states[key] = replace(each, severity=rules[each.rule].severity, runbook=rules[each.rule].runbook)
        return [_ended(each, now_ns) for each in given_up if each.state not in ("resolved", "inactive")]

    def evaluate(self, now_ns: int, only: Sequence[Rule] | None = None, query: Query | None = None) -> list[Alert]:
        """Evaluate the rules (`only` these, where given) as of `now_ns`; return the instances that are in a new state.

        `query` runs them this time, where given.
        """
        rules = self.rules if only is None else only
        self._now = query or self._query
        changed = [alert for rule in rules for alert in self._evaluate(rule, now_ns)]
        return changed

    def active(self) -> list[Alert]:
        """Return the instances that are pending, firing or without data."""
        return [alert for alert in self.states.values() if alert.state in ("pending", "firing", "no_data")]

    def _evaluate(self, rule: Rule, now_ns: int) -> list[Alert]:
        outcomes = self._said(rule, now_ns)
        if self._told is not None:
            self._told(rule, now_ns, outcomes)
        if not outcomes and rule.missing == "no_data":
            outcomes = [Outcome("{}", None, None, "the data that this rule needs is not there")]
        blind = any(each.labels == "{}" and each.firing is None for each in outcomes)
        seen = {outcome.labels for outcome in outcomes}
        gone = [
            a for a in self.states.values() if a.rule == rule.name and a.labels not in seen and a.state != "resolved"
        ]
        gone_as = None if blind else False
        said = _NOT_SEEN if rule.missing == "no_data" else ""
        outcomes += [Outcome(a.labels, gone_as, None, said + a.summary.removeprefix(said)) for a in gone]
        changes = (self._step(rule, outcome, now_ns) for outcome in outcomes)
        return [alert for alert in changes if alert is not None]

    def _said(self, rule: Rule, now_ns: int) -> list[Outcome]:
        """Return what a rule says now: that it has no data, where it cannot be evaluated."""
        try:
            outcomes = _outcomes(rule, self._now(rule.sql, rule.parameters(now_ns, self._thresholds)))
        except WarplineError as error:
            if self.errors.get(rule.name) != str(error):
                log.warning("alert rule %s: %s", rule.name, error)
            self.errors[rule.name] = str(error)
            return [Outcome("{}", None, None, f"the rule could not be evaluated: {error}")]
        self.errors.pop(rule.name, None)
        return outcomes

    def _step(self, rule: Rule, outcome: Outcome, now_ns: int) -> Alert | None:
        """Move one instance on, and return it where its state changed."""
        before = self.states.get((rule.name, outcome.labels))
        after = _next(rule, outcome, before, now_ns)
        if after is None:
            self.states.pop((rule.name, outcome.labels), None)
            return None if before is None else _ended(before, now_ns)
        self.states[after.key] = after
        return after if before is None or before.state != after.state else None


def _stored(row: Mapping[str, object]) -> Alert:
    """Return what a row of `alert` says."""
    at, value = int(str(row["time_ns"])), None if row["value"] is None else float(str(row["value"]))
    rule, labels, state, severity, summary = (
        str(row[name]) for name in ("rule", "labels", "state", "severity", "summary")
    )
    return Alert(rule, labels, state, severity, summary, value, at, at)


def _goes_on(alert: Alert, rule: Rule | None, now_ns: int) -> bool:
    """Say whether a stored state is still one of a rule."""
    if rule is None or alert.state == "inactive":
        return False
    return alert.state != "pending" or now_ns - alert.since_ns <= rule.for_ns + _UNSEEN_NS


def _ended(alert: Alert, now_ns: int) -> Alert:
    """Return an instance that fires as resolved, any other as inactive."""
    return replace(alert, state="resolved" if alert.state == "firing" else "inactive", since_ns=now_ns)


def _next(rule: Rule, outcome: Outcome, before: Alert | None, now_ns: int) -> Alert | None:
    """Return the instance after `outcome`, or None where there is nothing to remember of it."""
    state = before.state if before is not None else "inactive"
    started = before.started_ns if before is not None and state in ("pending", "firing") else now_ns
    made = Alert(
        rule.name, outcome.labels, state, rule.severity, outcome.summary, outcome.value,
        before.since_ns if before is not None else now_ns, started, runbook=rule.runbook,
    )  # fmt: skip
    if outcome.firing is None:
        # A firing alert stays: that its data went missing does not mean that all is well.
        return (
            _blind(made, before, now_ns) if before is not None and state == "firing" else _as(made, "no_data", now_ns)
        )
    if outcome.firing:
        ripe = now_ns - started >= rule.for_ns
        return _as(made, "firing" if ripe or state == "firing" else "pending", now_ns)
    if state == "firing" and before is not None:
        quiet = before.quiet_since_ns if before.quiet_since_ns is not None else now_ns
        if now_ns - quiet < _KEEP_FIRING_NS:
            return replace(before, quiet_since_ns=quiet, blind_since_ns=None)
        return _as(made, "resolved", now_ns)
    return before if state == "resolved" else None


def _blind(made: Alert, before: Alert, now_ns: int) -> Alert:
    """Return an instance that fires, once its rule has no data for it."""
    since = before.blind_since_ns if before.blind_since_ns is not None else now_ns
    if now_ns - since < _BLIND_NS:
        return replace(before, blind_since_ns=since)
    return replace(_as(made, "resolved", now_ns), summary=_NOT_SEEN + before.summary)


def _as(alert: Alert, state: str, now_ns: int) -> Alert:
    return alert if alert.state == state else replace(alert, state=state, since_ns=now_ns)


def _outcomes(rule: Rule, rows: pa.Table) -> list[Outcome]:
    labels = [name for name in rows.column_names if name not in _NOT_LABELS]
    return [_outcome(rule, labels, row) for row in rows.to_pylist()]


def _outcome(rule: Rule, names: list[str], row: Mapping[str, object]) -> Outcome:
    labels = {name: str(row[name]) for name in names if row[name] is not None}
    value = None if row["value"] is None else float(str(row["value"]))
    shown = {**dict.fromkeys(names, "unknown"), **labels, "value": float("nan") if value is None else value}
    shown["name"] = row.get("name") or "unknown"
    firing = None if row["firing"] is None else bool(row["firing"])
    return Outcome(json.dumps(labels, sort_keys=True), firing, value, rule.summary.format(**shown))


def batch(changed: Sequence[Alert], notified: Sequence[bool | None] | None = None) -> Batch:
    """Return the rows of `alert` that say what changed; `notified` says of each whether a receiver took it."""
    columns = {
        "time_ns": [a.since_ns for a in changed],
        "rule": [a.rule for a in changed],
        "state": [a.state for a in changed],
        "severity": [a.severity for a in changed],
        "labels": [a.labels for a in changed],
        "summary": [a.summary for a in changed],
        "value": [a.value for a in changed],
        "notified": notified,
    }
    return Batch(ALERT, ALERT.batch(columns, rows=len(changed)))
