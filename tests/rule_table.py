"""docs/rules.md: which alert rule fires on which sample incident, and why one fires on none.

Made of the golden rows `expected/firings.csv` of each incident; `make golden` writes it, a test says whether it is current.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from correlator.alerting import alert_rule
from correlator.alerting.alert_rule import Rule
from correlator.alerting.seen import Seen, span, why_not
from warpline import sample
from warpline.settings import Settings

_ROOT = Path(__file__).resolve().parent.parent
SAMPLES = _ROOT / "sample_traces"
PAGE = _ROOT / "docs" / "rules.md"
INCIDENT = "incident.json"
SILENT: dict[str, str] = {}
"""Rules that fire on no sample incident, each with what it would take."""


def as_csv(seen: Seen) -> str:
    """Return one line a rule: values empty where it saw none, `held_s` empty where its condition never held."""
    lines = ["rule,low,high,held_s"]
    for name, held in sorted(seen.held_s.items()):
        low, high = (f"{each:.3g}" for each in seen.values[name]) if name in seen.values else ("", "")
        lines.append(f"{name},{low},{high},{held if held >= 0 else ''}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Incident:
    """What `incident.json` says: rules that must fire, thresholds that differ from the rules' own, and why."""

    fires: list[str]
    thresholds: dict[str, float]
    why_thresholds: str
    baseline: str = ""
    """The sample trace that stands for the week before."""
    finding: str = ""
    """What must be told of the slowest inference request, among other things."""
    settings: dict[str, str] = field(default_factory=dict)
    """Settings that switch rules on which are off by themselves."""
    why_settings: str = ""


def incident(case: Path) -> Incident:
    """Return what is said of a sample incident."""
    return Incident(**json.loads((case / INCIDENT).read_text(encoding="utf-8")))


def rules(case: Path) -> list[Rule]:
    """Return the rules that are evaluated on a sample incident."""
    return alert_rule.in_force(Settings(**incident(case).settings))  # type: ignore[arg-type]  # all of them texts


def baseline(case: Path) -> Path | None:
    """Return the directory of the sample trace whose times are moved to a week before an incident, where it has one."""
    name = incident(case).baseline
    return SAMPLES / name if name else None


def incidents() -> list[Path]:
    """Return the directories of the sample incidents, the healthy one first."""
    found = sorted(path.parent for path in SAMPLES.glob(f"*/{INCIDENT}"))
    return sorted(found, key=lambda case: case.name != "healthy")


def fired(case: Path) -> dict[str, int]:
    """Return by rule when it first fired on an incident, in seconds after its start."""
    first: dict[str, int] = {}
    with (case / "expected" / "firings.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            first[row["rule"]] = min(first.get(row["rule"], int(row["after_s"])), int(row["after_s"]))
    return first


def _cell(rule: Rule, first: int | None, seen: Mapping[str, str] | None) -> str:
    """Return when a rule fired on an incident, or why it did not; without `seen` it was not evaluated."""
    if seen is None:
        return "off"
    low, high = (float(seen[key]) if seen[key] else None for key in ("low", "high"))
    if first is None:
        return why_not(rule, low, high, int(seen["held_s"]) if seen["held_s"] else None)
    return f"**{first} s**" if low is None or high is None else f"**{first} s** ({span(low, high)})"


def _thresholds(rule: Rule) -> str:
    nodes = [f"nodes: `{rule.nodes_setting}`"] if rule.nodes_setting else []
    return ", ".join([*(f"{t.name} {t.default:g}" for t in rule.thresholds), *nodes])


def _sentences(case: Path) -> list[str]:
    """Return what each rule said that fired on an incident, the first time that it did."""
    first: dict[str, str] = {}
    with (case / "expected" / "firings.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            first.setdefault(row["rule"], row["summary"])
    meant = incident(case).fires
    return [f"- {'' if rule in meant else '(besides) '}`{rule}`: {said}" for rule, said in sorted(first.items())]


def page() -> str:
    """Return the page's text."""
    cases = incidents()
    by_case = {case.name: fired(case) for case in cases}
    seen = {case.name: _seen(case) for case in cases}
    lines = [
        "# Alert rules and sample incidents",
        "",
        "Each cell says when a rule first fired, in seconds after the start of the recording, or why it did not. In",
        "brackets, or alone: the least and the greatest value that it saw, to be compared with its thresholds; *held*: its",
        "condition held, but not for as long as it must; *no data*: what it needs was not there; *nothing of its kind*: it",
        "is about what did not happen; *off*: the incident's settings do not switch it on. `warpline alerts test --on",
        "sample_traces/<incident> sample_traces/<another>` says on what and for how long, with other thresholds too",
        "(`--threshold rule.name=number`); `make golden` writes this page. A back-test looks at each rule once a second;",
        "a live correlator looks at one that must hold for a while five times in that while, and at `tpot_objective` and",
        "`ttft_objective`, which read an hour of requests, every 15 s: they may fire by that much later.",
        "",
        "| rule | for | thresholds | " + " | ".join(by_case) + " |",
        "|---|---|---|" + "---|" * len(by_case),
    ]
    for rule in alert_rule.load():
        cells = [_cell(rule, by_case[name].get(rule.name), seen[name].get(rule.name)) for name in by_case]
        lines.append(f"| {rule.name} | {rule.for_ns / 1e9:g} s | {_thresholds(rule)} | {' | '.join(cells)} |")
    heard = {rule for found in by_case.values() for rule in found}
    silent = [rule.name for rule in alert_rule.load() if rule.name not in heard]
    lines += ["", f"Every rule fires on some incident{', but for:' if silent else '.'}", ""]
    lines += [*(f"- `{name}`: {SILENT[name]}" for name in silent), *([""] if silent else [])]
    lines += ["## What was said", "", "*Besides*: what the incident is not about, but did."]
    for case in cases:
        said = incident(case)
        about = sample.load(case).about
        lines += ["", f"**{case.name}**: {about}.", "", *(_sentences(case) or ["- nothing"])]
        if said.baseline:
            lines.append(f"- The week before is the recording {said.baseline}, its times moved.")
        if said.settings:
            changed = ", ".join(f"{k} = {v}" for k, v in said.settings.items())
            lines.append(f"- Settings ({said.why_settings}): {changed}")
        if said.thresholds:
            changed = ", ".join(f"{k} = {v:g}" for k, v in said.thresholds.items())
            lines.append(f"- Thresholds that differ from the rules' own ({said.why_thresholds}): {changed}")
    return "\n".join(lines) + "\n"


def _seen(case: Path) -> dict[str, dict[str, str]]:
    with (case / "expected" / "seen.csv").open(encoding="utf-8", newline="") as file:
        return {row["rule"]: row for row in csv.DictReader(file)}
