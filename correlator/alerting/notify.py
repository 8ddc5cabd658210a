"""Tells receivers of alerts: Alertmanager by its v2 API, webhooks in Slack's form.

Alertmanager groups, silences and repeats; it wants to hear of a firing alert again before its `endsAt`, so each is sent
every `_AGAIN_S`. What a receiver did not take is owed to it, and sent again at the next evaluation, oldest first; a restart
forgets no debt. One that does not answer at all is left alone for a while, so that the others, and the rules, need not wait.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import urllib3

from correlator.alerting.alerts import Alert
from correlator.remembered import Remembered
from warpline.settings import Settings

log = logging.getLogger(__name__)

_AGAIN_S = 60.0
_OWED = 1000
"""Notifications that are kept for a webhook that does not answer; older ones are dropped: the page has them all."""
_HOLDS_NS = 240_000_000_000
_PAUSE_S = 30.0
"""Time for which a receiver that does not answer is not asked again: each try may take `_ANSWER_S`."""
_ANSWER_S = 5.0
TOLD = ("firing", "resolved")
"""States of which receivers are told."""


class Notifier:
    """Sends changes of alerts to every receiver in the settings."""

    def __init__(self, settings: Settings, remembered: Remembered | None = None) -> None:
        """Take the receivers from the settings `alerts_*_urls`; what they are owed is `remembered`."""
        self._alertmanagers = _urls(settings.alerts_alertmanager_urls)
        self._webhooks = _urls(settings.alerts_webhook_urls)
        self._dashboard = settings.alerts_dashboard_url.rstrip("/")
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(total=_ANSWER_S), retries=False)
        self._sent_at = 0.0
        self._unsent: list[Alert] = []
        self._owed: dict[str, deque[Alert]] = {url: deque(maxlen=_OWED) for url in self._webhooks}
        self._silent_until_s: dict[str, float] = {}
        self._remembered = remembered
        self._recall()
        self.failed = 0
        self.sent = 0

    def _recall(self) -> None:
        """Take up what was owed before a restart to receivers that are still in the settings."""
        webhooks = {_mark(url): alerts for url, alerts in self._owed.items()}
        try:
            for each in self._remembered.read() if self._remembered else ():
                alert = Alert(**each["alert"])
                if not each["to"]:
                    self._unsent.append(alert)
                elif each["to"] in webhooks:
                    webhooks[each["to"]].append(alert)
        except (KeyError, TypeError) as error:
            log.warning("alerts: what was owed to receivers before cannot be read: %s", error)

    def _remember(self, before: Mapping[str, int]) -> None:
        if self._remembered is not None and (any(before.values()) or any(self.owed().values())):
            owed = {"": self._unsent, **{_mark(url): alerts for url, alerts in self._owed.items()}}
            self._remembered.write([{"to": url, "alert": asdict(a)} for url, alerts in owed.items() for a in alerts])

    def owed(self) -> dict[str, int]:
        """Return how many notifications each webhook is owed, and the Alertmanagers, under an empty name."""
        return {"": len(self._unsent), **{url: len(alerts) for url, alerts in self._owed.items()}}

    def send(self, changed: Sequence[Alert], active: Sequence[Alert]) -> bool | None:
        """Tell of what changed, and from time to time again of what fires; never raises for a receiver's fault.

        Returns whether a receiver has now taken all that it is to know; None where there is none.
        """
        before, news = self.owed(), [a for a in changed if a.state in TOLD]
        again = time.monotonic() - self._sent_at > _AGAIN_S
        taken = []
        if self._alertmanagers:
            due = news or again or self._unsent
            taken.append(self._tell_alertmanagers(news, [a for a in active if a.state == "firing"]) if due else True)
        for url in self._webhooks:
            self._owed[url].extend(news)
            while self._owed[url] and self._post(url, self._as_message(self._owed[url][0])):
                self._owed[url].popleft()
            taken.append(not self._owed[url])
        self._remember(before)
        return any(taken) if taken else None

    def _tell_alertmanagers(self, news: Sequence[Alert], firing: Sequence[Alert]) -> bool:
        resolved = [a for a in (*self._unsent, *news) if a.state == "resolved"]
        body = [self._for_alertmanager(a) for a in (*firing, *resolved)]
        if not body:
            return True
        delivered = [self._post(f"{url}/api/v2/alerts", body) for url in self._alertmanagers]
        self._sent_at = time.monotonic()
        # One Alertmanager of a cluster is enough: they tell each other.
        self._unsent = [] if any(delivered) else resolved[-_OWED:]
        return any(delivered)

    def _for_alertmanager(self, alert: Alert) -> dict[str, object]:
        ends_ns = alert.since_ns if alert.state == "resolved" else time.time_ns() + _HOLDS_NS
        return {
            "labels": {"alertname": alert.rule, "severity": alert.severity, **json.loads(alert.labels)},
            "annotations": {"summary": alert.summary, "value": str(alert.value), "runbook": alert.runbook},
            "startsAt": _rfc3339(alert.started_ns),
            "endsAt": _rfc3339(ends_ns),
            "generatorURL": self._link(alert),
        }

    def _as_message(self, alert: Alert) -> dict[str, object]:
        advice = f"\n{alert.runbook}" if alert.runbook and alert.state == "firing" else ""
        return {
            "text": f"[{alert.state}] {alert.rule} ({alert.severity}): {alert.summary}{advice}\n{self._link(alert)}",
            "rule": alert.rule,
            "state": alert.state,
            "severity": alert.severity,
            "labels": json.loads(alert.labels),
            "value": alert.value,
            "started_ns": alert.started_ns,
        }

    def _link(self, alert: Alert) -> str:
        return f"{self._dashboard}/alerts?rule={alert.rule}&at={alert.since_ns}"

    def _post(self, url: str, body: object) -> bool:
        if time.monotonic() < self._silent_until_s.get(url, 0.0):
            return False
        try:
            answer = self._pool.request("POST", url, json=body)
        except urllib3.exceptions.HTTPError as error:
            reason = type(error).__name__
            self._silent_until_s[url] = time.monotonic() + _PAUSE_S
        else:
            if answer.status < 300:
                self.sent += 1
                return True
            reason = f"status {answer.status}"
        self.failed += 1
        log.warning("alerts: %s did not take a notification (%s); it is sent again", _shown(url), reason)
        return False


def _shown(url: str) -> str:
    """Return what may be logged of an address: the path of a webhook is its secret."""
    found = urllib3.util.parse_url(url)
    return f"{found.scheme}://{found.netloc}"


def _mark(url: str) -> str:
    """Return what stands for a webhook on disk."""
    return hashlib.sha256(url.encode()).hexdigest()


def _urls(text: str) -> list[str]:
    return [each.strip().rstrip("/") for each in text.split(",") if each.strip()]


def _rfc3339(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
