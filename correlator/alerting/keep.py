"""Which windows the collectors' flight recorders are asked to keep: around alerts, slow requests, and what a person names.

A window reaches from `recorder_before_s` before its cause to `recorder_after_s` after it, on every node that served the
requests which the cause is about, and the detail there is raised meanwhile. Kept windows cost their nodes' queue and the
store what ordinary detail saves: so one rule, and slow requests as a whole, have one window for a node each
`recorder_pause_s`. Rules whose header says `keep: no` have none.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files

import pyarrow as pa
import pyarrow.compute as pc

from correlator.alerting.alert_rule import Rule
from correlator.alerting.alerts import Alert, Query
from correlator.remembered import Remembered, monotonic_s, unix_s
from correlator.wanted import Wanted
from warpline.errors import StoreError
from warpline.settings import Settings
from warpline.telemetry import Reading

log = logging.getLogger(__name__)

SLOW, ASKED = "slow_request", "asked"
_ALL_DETAIL = {"*": 3}
_ASKED_FOR_S = 300.0
"""Time for which a window is asked for after its end: a collector asks every five seconds, and may be away for a while."""
_SLOW_EVERY_S = 5.0
_LOOK_BACK_NS = 120_000_000_000
"""A request that began before is no news: it was met while it was open, at the latest."""
_REMEMBERED = 1000
_REQUESTS_SQL = (files("correlator") / "sql" / "_kept_request.sql").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Kept:
    """One window of node time [since_ns, until_ns) that the collector of `node` was asked for; an empty node means all."""

    cause: str
    node: str
    since_ns: int
    until_ns: int


class Keeper:
    """Turns causes into wishes to the collectors, not too many of them."""

    def __init__(self, settings: Settings, query: Query, wanted: Wanted, remembered: Remembered | None = None) -> None:
        """Look up requests by `query`, and wish by `wanted`; what was kept before is `remembered`."""
        self._settings, self._query, self._wanted = settings, query, wanted
        self._before_ns, self._after_ns = (
            int(each * 1e9) for each in (settings.recorder_before_s, settings.recorder_after_s)
        )
        self._lock = threading.Lock()  # Alerts and people ask from threads of their own.
        self._until_s: dict[tuple[str, str], float] = {}
        self._slow_s = 0.0
        self.kept: deque[Kept] = deque(maxlen=_REMEMBERED)
        self.counts: Counter[str] = Counter()
        self._remembered = remembered
        self._recall()

    def _recall(self) -> None:
        """Go on with what the correlator before asked for: a restart is no reason to keep one cause's window again."""
        try:
            for each in self._remembered.read() if self._remembered else ():
                kept = Kept(**each["kept"])
                self.kept.append(kept)
                pause_s = self._settings.recorder_pause_s
                self._until_s[kept.cause, kept.node] = monotonic_s(float(each["pause_until_s"]), pause_s)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("flight recorder: windows from before cannot be read: %s", error)

    def _remember(self) -> None:
        if self._remembered is not None:
            pauses = (unix_s(self._until_s[each.cause, each.node]) for each in self.kept)
            said = [
                {"kept": asdict(each), "pause_until_s": until} for each, until in zip(self.kept, pauses, strict=True)
            ]
            self._remembered.write(said)

    def alerts(self, fired: Sequence[Alert], rules: Sequence[Rule], now_ns: int) -> None:
        """Keep the windows of alerts that fire since now. Raises StoreError where the requests cannot be looked up."""
        keeping = {rule.name for rule in rules if rule.keeps}
        for alert in fired:
            if alert.state == "firing" and alert.rule in keeping:
                window = alert.started_ns - self._before_ns, now_ns + self._after_ns
                nodes = self._nodes_of_labels(json.loads(alert.labels), window)
                self._keep(alert.rule, nodes, window)

    def slow(self, now_ns: int) -> None:
        """Keep the windows of requests that were slow lately. Raises StoreError where they cannot be looked up."""
        most_ns = self._settings.recorder_slow_ttft_ms * 1e6
        if most_ns <= 0 or time.monotonic() - self._slow_s < _SLOW_EVERY_S:
            return
        self._slow_s = time.monotonic()
        found = self._requests(now_ns - _LOOK_BACK_NS, now_ns)
        # One that is open has no first byte yet: how long it has waited says enough.
        waited = pc.if_else(found["open"], pc.subtract(now_ns, found["start_ns"]), None)
        ttft = pc.coalesce(found["ttft_ns"], waited)
        for row in found.filter(pc.greater(pc.fill_null(ttft, 0), most_ns)).sort_by("start_ns").to_pylist():
            ended_ns = now_ns if row["open"] else row["end_ns"]
            self._keep(SLOW, row["nodes"], (row["start_ns"] - self._before_ns, ended_ns + self._after_ns))

    def asked(self, since_ns: int, until_ns: int, node: str = "") -> list[Kept]:
        """Keep a window that a person asks for, on one node or, without one, on all."""
        return self._keep(ASKED, [node], (since_ns, until_ns))

    def asked_request(self, request_uid: str, start_ns: int) -> list[Kept]:
        """Keep the window of a request that began at `start_ns`, on its nodes; an empty list where there is none."""
        found = self._requests(start_ns, start_ns + 1)
        rows = found.filter(pc.equal(found["request_uid"], request_uid)).to_pylist()
        return [
            kept
            for row in rows
            for kept in self._keep(
                ASKED, row["nodes"], (row["start_ns"] - self._before_ns, row["end_ns"] + self._after_ns)
            )
        ]

    def _requests(self, since_ns: int, until_ns: int) -> pa.Table:
        return self._query(_REQUESTS_SQL, {"since_ns": since_ns, "until_ns": until_ns})

    def _nodes_of_labels(self, labels: dict[str, str], window: tuple[int, int]) -> Collection[str]:
        """Return the nodes that an alert is about: its own, else those that served the requests it speaks of, else all."""
        if "node" in labels:
            return [labels["node"]]
        if "process_uid" in labels:
            return [labels["process_uid"].partition(":")[0]]
        found = self._requests(*window)
        for column in ("model", "path"):
            if column in labels:
                found = found.filter(pc.equal(pc.fill_null(found[column], "unknown"), labels[column]))
        return sorted(set(pc.list_flatten(found["nodes"]).to_pylist())) or [""]

    def _keep(self, cause: str, nodes: Collection[str], window: tuple[int, int]) -> list[Kept]:
        """Ask the nodes for a window, but for those that were asked for the same cause a moment ago."""
        now_s = time.monotonic()
        with self._lock:
            due = [each for each in nodes if cause == ASKED or self._until_s.get((cause, each), 0.0) <= now_s]
            made = [Kept(cause, node, *window) for node in due]
            for kept in made:
                self._until_s[cause, kept.node] = now_s + self._settings.recorder_pause_s
                self._wish(kept)
            if made:
                self.kept.extend(made)
                self.counts[cause] += len(made)
                self._remember()
        if made:
            log.info("flight recorder: %s: %d s kept on %s", cause, (window[1] - window[0]) / 1e9, ", ".join(due))
        return made

    def _wish(self, kept: Kept) -> None:
        after_s = self._settings.recorder_after_s
        windows = [[kept.since_ns, kept.until_ns]]
        self._wanted.wish({"node": kept.node, "windows": windows, "seconds": after_s + _ASKED_FOR_S})
        if kept.cause != ASKED and after_s > 0:
            self._wanted.wish({"node": kept.node, "detail": _ALL_DETAIL, "seconds": after_s})

    def look(self, changed: Sequence[Alert], rules: Sequence[Rule], now_ns: int) -> None:
        """Keep what is due now; a look-up that fails is said, and not tried again."""
        try:
            self.alerts(changed, rules, now_ns)
            self.slow(now_ns)
        except StoreError as error:
            log.warning("flight recorder: %s", error)

    def described(self) -> list[dict[str, object]]:
        """Return the windows that were asked for lately, the newest first."""
        return [asdict(each) for each in reversed(list(self.kept))]

    def readings(self) -> Iterator[Reading]:
        """Yield how many windows were asked for, by cause."""
        for cause, count in self.counts.copy().items():
            labels = {"cause": cause}
            yield Reading("warpline.recorder.windows", count, "{window}", True, labels, "windows asked of collectors")
