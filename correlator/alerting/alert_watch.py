"""Evaluates the alert rules as time goes on: writes every change as a row, tells receivers, answers /metrics."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from correlator.alerting import alert_rule, alerts
from correlator.alerting.alert_rule import Rule
from correlator.alerting.alerts import Alert, Alerts
from correlator.alerting.event_time import EventTime
from correlator.alerting.keep import Keeper
from correlator.alerting.notify import TOLD, Notifier
from correlator.remembered import Remembered
from correlator.storage import snapshot
from correlator.storage.store import Store
from warpline.batch import Batch
from warpline.errors import StoreError
from warpline.settings import Settings
from warpline.telemetry import Reading

log = logging.getLogger(__name__)

_STATE_SQL = """
SELECT * FROM alert WHERE time_ns > $since_ns
QUALIFY ROW_NUMBER() OVER (PARTITION BY rule, labels, state ORDER BY time_ns DESC) = 1 ORDER BY time_ns
"""
_SHARE_OF_FOR = 5
_LONGEST_S = 10.0
"""A rule that must hold for a while is looked at five times in that while, and at least every ten seconds: most of an
evaluation's cost is DuckDB's planning, about 2 ms a rule."""
_REMEMBER_NS = 7 * 86_400_000_000_000


class AlertWatch:
    """A thread that keeps the alerts of one store up to date."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        accept: Callable[[Sequence[Batch]], None],
        keeper: Keeper,
        owed: Remembered | None = None,
    ) -> None:
        """Evaluate on `store`; `accept` takes the rows of what changed, durably, `keeper` asks collectors for their windows.

        `owed` remembers what receivers did not take yet. Raises SchemaError for wrong thresholds.
        """
        self._settings, self._accept = settings, accept
        thresholds = alert_rule.overrides(settings.alerts_thresholds, alert_rule.load())
        self.alerts = Alerts(alert_rule.in_force(settings), store.query, thresholds)
        self._store, self.keeper, self._time = store, keeper, EventTime(store.query)
        self.seconds = 0.0
        self.notifier = Notifier(settings, owed)
        self._name = f"{settings.node or socket.gethostname()}/alerts/{time.time_ns()}"
        self._sequence = 0
        self._due_s: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="alerts", daemon=True)

    def start(self) -> None:
        """Take up the state that is stored, and begin; does nothing where `alerts_every_s` is 0."""
        if self._settings.alerts_every_s <= 0:
            return
        self.take_up(time.time_ns())
        self._thread.start()

    def take_up(self, now_ns: int) -> None:
        """Go on with the state that is stored; write and tell what of it does not go on."""
        rows = self._store.query(_STATE_SQL, {"since_ns": now_ns - _REMEMBER_NS}).to_pylist()
        self._tell(self.alerts.restore(rows, now_ns))

    def stop(self) -> None:
        """Stop evaluating."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def look(self, now_ns: int, only: Sequence[Rule] | None = None) -> None:
        """Evaluate the rules (`only` these, where given) as of `now_ns`, write what changed and tell receivers."""
        rules = self.alerts.rules if only is None else only
        began = time.perf_counter()
        with snapshot.opened(self._store, snapshot.inputs(tuple(rule.sql for rule in rules)), now_ns, now_ns) as query:
            changed = self.alerts.evaluate(now_ns, rules, query)
        self.seconds = time.perf_counter() - began
        self._tell(changed)
        self.keeper.look(changed, self.alerts.rules, now_ns)

    def _tell(self, changed: Sequence[Alert]) -> None:
        """Tell receivers of what changed, then write it: killed in between, it is told twice, never not at all."""
        told = self.notifier.send(changed, self.alerts.active())
        if changed:
            self._sequence += 1
            rows = alerts.batch(changed, [told if each.state in TOLD else None for each in changed])
            self._accept([Batch(rows.table, rows.rows, f"{self._name}/{self._sequence}")])

    def _loop(self) -> None:
        while not self._stop.wait(max(self._settings.alerts_every_s - self.seconds, 0.05)):
            try:
                self.look(self._time.now_ns() - int(self._settings.alerts_lateness_s * 1e9), self._due())
            except StoreError as error:  # The spool is full or the store is away: the next look says the same again.
                log.warning("alerts: %s", error)

    def _due(self) -> list[Rule]:
        """Return the rules that are to be looked at now, and set when each is next."""
        now, every = time.monotonic(), self._settings.alerts_every_s
        due = [rule for rule in self.alerts.rules if self._due_s.get(rule.name, 0.0) <= now]
        for rule in due:
            wanted = min(rule.for_ns / 1e9 / _SHARE_OF_FOR, _LONGEST_S)
            self._due_s[rule.name] = now + max(every, wanted, rule.every_ns / 1e9) - every / 2
        return due

    def readings(self) -> Iterator[Reading]:
        """Yield how many alerts are in which state, in the form of Prometheus' own ALERTS, and how the rules fare."""
        counted = Counter((a.rule, a.severity, a.state) for a in self.alerts.active())
        for rule in self.alerts.rules:
            for state in ("pending", "firing", "no_data"):
                labels = {"alertname": rule.name, "severity": rule.severity, "alertstate": state}
                count = counted[rule.name, rule.severity, state]
                yield Reading("warpline.alerts", count, "{alert}", labels=labels, doc="alerts by rule and state")
        yield Reading("warpline.alerts.evaluation", self.seconds, "s", doc="time that one evaluation of all rules took")
        refused_s = self._time.refused_ns / 1e9
        yield Reading(
            "warpline.alerts.clock_step", refused_s, "s", doc="step of the wall clock that rows do not confirm"
        )
        yield Reading("warpline.alerts.broken", len(self.alerts.errors), "{rule}", doc="rules that cannot be evaluated")
        yield Reading("warpline.alerts.notified", self.notifier.sent, "{notification}", True, doc="notifications taken")
        yield from self.keeper.readings()
        yield Reading("warpline.alerts.not_notified", self.notifier.failed, "{notification}", True, doc="and not taken")
