"""When would each rule have fired on a recorded incident: the same rules and states, on the recording's own time."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from correlator.alerting import alert_rule
from correlator.alerting.alert_rule import Rule
from correlator.alerting.alerts import Alert, Alerts, Told
from correlator.alerting.seen import Seen
from correlator.joins.stages import Joins
from correlator.storage import snapshot
from correlator.storage.store import Store
from warpline import sample
from warpline.sample import Manifest
from warpline.settings import Settings

STEP_NS = 1_000_000_000
WEEK_NS = 604_800_000_000_000
_AFTER_NS = 120_000_000_000
"""Time after the recording's end that is still looked at, so that what fired can be resolved."""


@dataclass(frozen=True, slots=True)
class Firing:
    """One time that one instance of a rule fired; `end_ns` is None where it was never resolved."""

    rule: str
    labels: str
    summary: str
    start_ns: int
    end_ns: int | None


def chosen(names: Sequence[str], settings: Settings | None = None) -> list[Rule]:
    """Return the rules called `names`, those in force if none is given; raise SchemaError for one that does not exist.

    A rule that is asked for by name is tried on the nodes that the settings name, on all where they name none.
    """
    settings = settings or Settings()
    if not names:
        return alert_rule.in_force(settings)
    asked = alert_rule.named(names)
    return [found if (found := rule.in_force(settings)).nodes else rule for rule in asked]


@contextmanager
def opened(directory: Path, settings: Settings, baseline: Path | None = None) -> Iterator[tuple[Store, Manifest]]:
    """Give a store of its own that holds the sample trace in `directory`, joined by today's rules.

    With `baseline`, another sample trace, it also holds that one's rows, their times moved so that it began a week before:
    for rules that compare with last week.
    """
    with tempfile.TemporaryDirectory(prefix="warpline-backtest-") as state_dir:
        fresh = dataclasses.replace(settings, state_dir=state_dir, correlator_retention_days=0)
        store = Store(fresh)
        try:
            found = sample.load(directory)
            _write(store, directory, found, 0)
            if baseline is not None:
                earlier = sample.load(baseline)
                _write(store, baseline, earlier, found.start_ns - WEEK_NS - earlier.start_ns)
            Joins(fresh, store).rebuild()
            yield store, found
        finally:
            store.close()


def _write(store: Store, directory: Path, found: Manifest, shift_ns: int) -> None:
    for number, batch in enumerate(sample.batches(directory, found, shift_ns)):
        store.write([dataclasses.replace(batch, batch_id=f"{found.uid}{shift_ns:+}/{number}")])


def run(
    rules: Sequence[Rule],
    store: Store,
    window: tuple[int, int],
    thresholds: dict[str, float] | None = None,
    progress: Callable[[float], None] = lambda share: None,
    told: Told | None = None,
    step_ns: int = STEP_NS,
) -> tuple[list[Firing], list[Alert]]:
    """Evaluate rules on `store` every second (`step_ns`) of `window` and a while after; return each firing, and every change
    of a state.

    What begins only after the window says nothing but that the recording has ended (a collector that is silent, say): it is
    no firing.
    """
    inputs = snapshot.inputs(tuple(rule.sql for rule in rules))
    with snapshot.opened(store, inputs, window[0], window[1] + _AFTER_NS) as query:
        changes = _changes(
            Alerts(rules, query, thresholds, told),
            range(window[0], window[1] + _AFTER_NS, step_ns),
            window[1],
            progress,
        )
    return _firings([each for each in changes if each.started_ns < window[1]]), changes


def _changes(alerts: Alerts, steps: range, end_ns: int, progress: Callable[[float], None]) -> list[Alert]:
    changes: list[Alert] = []
    for number, now_ns in enumerate(steps):
        changes += alerts.evaluate(now_ns)
        progress((number + 1) / len(steps))
        if now_ns >= end_ns:
            alerts.rules = _unfinished(alerts)
            if not alerts.rules:
                break
    progress(1.0)
    return changes


def _unfinished(alerts: Alerts) -> list[Rule]:
    """Return the rules that have an instance which is pending or fires: what begins after a recording counts no more."""
    open_rules = {each.rule for each in alerts.active() if each.state in ("pending", "firing")}
    return [rule for rule in alerts.rules if rule.name in open_rules]


def _firings(changes: Sequence[Alert]) -> list[Firing]:
    found: dict[tuple[str, str], Firing] = {}
    done: list[Firing] = []
    for alert in changes:
        if alert.state == "firing":
            found[alert.key] = Firing(alert.rule, alert.labels, alert.summary, alert.since_ns, None)
        elif alert.state == "resolved" and alert.key in found:
            done.append(dataclasses.replace(found.pop(alert.key), end_ns=alert.since_ns))
    return sorted([*done, *found.values()], key=lambda firing: (firing.start_ns, firing.rule, firing.labels))


def described(settings: Settings) -> str:
    """Return all rules as JSON, each with whether it is in force and the `value` of each threshold: what a bundle keeps of
    them, and what /api/rules answers. Raises SchemaError for settings that name what there is not."""
    rules, in_force = alert_rule.load(), {rule.name: rule for rule in alert_rule.in_force(settings)}
    numbers = alert_rule.overrides(settings.alerts_thresholds, rules)
    return json.dumps([_described(in_force.get(r.name, r), r.name in in_force, numbers) for r in rules], indent=1)


def _described(rule: Rule, in_force: bool, numbers: dict[str, float]) -> dict[str, object]:
    thresholds = [
        {**dataclasses.asdict(each), "value": numbers.get(f"{rule.name}.{each.name}", each.default)}
        for each in rule.thresholds
    ]
    said = {"for_s": rule.for_ns / 1e9, "in_force": in_force, "thresholds": thresholds}
    return dataclasses.asdict(rule) | said


__all__ = ["Firing", "Seen", "chosen", "described", "opened", "run"]
