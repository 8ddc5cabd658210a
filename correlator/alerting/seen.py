"""What a rule saw of a recording, so that one that did not fire has a reason."""

from __future__ import annotations

from collections.abc import Sequence

from correlator.alerting.alert_rule import Rule
from correlator.alerting.alerts import Outcome

_SECOND_NS = 1_000_000_000


class Seen:
    """What each rule saw: the least and the greatest value, and for how long its condition held at most."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.values: dict[str, list[float]] = {}
        self.held_s: dict[str, int] = {}
        """By rule that was evaluated: -1 where its condition never held."""
        self._since: dict[tuple[str, str], int] = {}

    def note(self, rule: Rule, now_ns: int, outcomes: Sequence[Outcome]) -> None:
        """Take what one evaluation said."""
        self.held_s.setdefault(rule.name, -1)
        for each in outcomes:
            key = rule.name, each.labels
            if each.value is not None:
                low, high = self.values.get(rule.name, [each.value, each.value])
                self.values[rule.name] = [min(low, each.value), max(high, each.value)]
            if not each.firing:
                self._since.pop(key, None)
                continue
            held_ns = now_ns - self._since.setdefault(key, now_ns)
            self.held_s[rule.name] = max(self.held_s[rule.name], held_ns // _SECOND_NS)

    def why_not(self, rule: Rule) -> str:
        """Return why a rule did not fire, in a few words."""
        low, high = self.values.get(rule.name, [None, None])
        held_s = self.held_s.get(rule.name, -1)
        return why_not(rule, low, high, held_s if held_s >= 0 else None)


def why_not(rule: Rule, low: float | None, high: float | None, held_s: int | None) -> str:
    """Return why a rule did not fire that saw values from `low` to `high` and whose condition held for `held_s` at most."""
    if low is None or high is None:
        return "no data" if rule.missing == "no_data" else "nothing of its kind"
    if held_s is None:
        return span(low, high)
    return f"held {held_s} s ({span(low, high)})"


def span(low: float, high: float) -> str:
    """Return what a rule's values were in words."""
    return f"{low:,.4g}" if low == high else f"{low:,.4g} to {high:,.4g}"
