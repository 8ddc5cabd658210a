"""Tells receivers of alerts: Alertmanager by its v2 API, webhooks in Slack's form.

Alertmanager groups, silences and repeats; it wants to hear of a firing alert again before its `endsAt`, so each is sent
every `_AGAIN_S`. What a receiver did not take is owed to it, and sent again at the next evaluation, oldest first.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime

import urllib3

from correlator.alerting.alerts import Alert
from warpline.settings import Settings

log = logging.getLogger(__name__)

_AGAIN_S = 60.0
_OWED = 1000
"""Notifications that are kept for a webhook that does not answer; older ones are dropped: the page has them all."""
_HOLDS_NS = 240_000_000_000


class Notifier:
    """Sends changes of alerts to every receiver in the settings."""

    def __init__(self, settings: Settings) -> None:
        """Take the receivers from `alerts_alertmanager_urls` and `alerts_webhook_urls`."""
        self._alertmanagers = _urls(settings.alerts_alertmanager_urls)
        self._webhooks = _urls(settings.alerts_webhook_urls)
        self._dashboard = settings.alerts_dashboard_url.rstrip("/")
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(total=5), retries=False)
        self._sent_at = 0.0
        self._unsent: list[Alert] = []
        self._owed: dict[str, deque[Alert]] = {url: deque(maxlen=_OWED) for url in self._webhooks}
        self.failed = 0
        self.sent = 0

    def send(self, changed: Sequence[Alert], active: Sequence[Alert]) -> None:
        """Tell of what changed, and from time to time again of what fires; never raises for a receiver's fault."""
        news = [a for a in changed if a.state in ("firing", "resolved")]
        again = time.monotonic() - self._sent_at > _AGAIN_S
        if self._alertmanagers and (news or again or self._unsent):
            self._tell_alertmanagers(news, [a for a in active if a.state == "firing"])
        for url in self._webhooks:
            self._owed[url].extend(news)
            while self._owed[url] and self._post(url, self._as_message(self._owed[url][0])):
                self._owed[url].popleft()

    def _tell_alertmanagers(self, news: Sequence[Alert], firing: Sequence[Alert]) -> None:
        resolved = [a for a in (*self._unsent, *news) if a.state == "resolved"]
        body = [self._for_alertmanager(a) for a in (*firing, *resolved)]
        if not body:
            return
        delivered = [self._post(f"{url}/api/v2/alerts", body) for url in self._alertmanagers]
        self._sent_at = time.monotonic()
        # One Alertmanager of a cluster is enough: they tell each other.
        self._unsent = [] if any(delivered) else resolved

    def _for_alertmanager(self, alert: Alert) -> dict[str, object]:
        ends_ns = alert.since_ns if alert.state == "resolved" else time.time_ns() + _HOLDS_NS
        return {
            "labels": {"alertname": alert.rule, "severity": alert.severity, **json.loads(alert.labels)},
            "annotations": {"summary": alert.summary, "value": str(alert.value)},
            "startsAt": _rfc3339(alert.started_ns),
            "endsAt": _rfc3339(ends_ns),
            "generatorURL": self._link(alert),
        }

    def _as_message(self, alert: Alert) -> dict[str, object]:
        return {
            "text": f"[{alert.state}] {alert.rule} ({alert.severity}): {alert.summary}\n{self._link(alert)}",
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
        try:
            answer = self._pool.request("POST", url, json=body)
        except urllib3.exceptions.HTTPError as error:
            reason = type(error).__name__
        else:
            if answer.status < 300:
                self.sent += 1
                return True
            reason = f"status {answer.status}"
        self.failed += 1
        log.warning("alerts: %s did not take a notification (%s); it is sent again", url, reason)
        return False


def _urls(text: str) -> list[str]:
    return [each.strip().rstrip("/") for each in text.split(",") if each.strip()]


def _rfc3339(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
