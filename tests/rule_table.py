"""docs/rules.md: which alert rule fires on which sample incident, and why one fires on none.

Made of the golden rows `expected/firings.csv` of each incident; `make golden` writes it, a test says whether it is current.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from correlator.alerting import alert_rule

_ROOT = Path(__file__).resolve().parent.parent
SAMPLES = _ROOT / "sample_traces"
PAGE = _ROOT / "docs" / "rules.md"
INCIDENT = "incident.json"
SILENT = {
    "cold_start_slow": "needs a container whose start takes five minutes: a sample of half a minute has none",
    "gpu_memory_full": "the double's engine leaves a tenth of its memory free, as engines do; nothing else allocates on it",
    "interconnect_saturated": "the double has no PCIe or NVLink counters: its copies are of a few bytes",
    "kernel_time_per_token_up": "compares with the same hours a week ago, which no sample of half a minute holds",
    "kv_transfer_slow": "needs a connector between prefill and decode engines; the double is one engine",
    "path_drops": "needs Cilium's verdicts (source hubble): packets that nftables drops are seen as retransmits only",
    "prefill_decode_imbalance": "needs a prefill and a decode pool, told by pods of a Kubernetes API",
    "source_down": "needs a source that ends for a minute; those of the samples wait for what they lost and go on",
}
"""Rules that fire on no sample incident, each with what it would take."""


@dataclass(frozen=True)
class Incident:
    """What `incident.json` says: rules that must fire, thresholds that differ from the rules' own, and why."""

    fires: list[str]
    thresholds: dict[str, float]
    why_thresholds: str


def incident(case: Path) -> Incident:
    """Return what is said of a sample incident."""
    return Incident(**json.loads((case / INCIDENT).read_text(encoding="utf-8")))


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


def page() -> str:
    """Return the page's text."""
    cases = incidents()
    by_case = {case.name: fired(case) for case in cases}
    lines = [
        "# Alert rules and sample incidents",
        "",
        "Each number: seconds after the start of the recording at which the rule first fired; a dot: it did not fire.",
        "`warpline alerts test --on sample_traces/<incident>` says on what; `make golden` writes this page.",
        "",
        "| rule | for | " + " | ".join(by_case) + " | fires on none because |",
        "|---|---|" + "---|" * (len(by_case) + 1),
    ]
    for rule in alert_rule.load():
        cells = [str(found.get(rule.name, "·")) for found in by_case.values()]
        silent = any(rule.name in found for found in by_case.values())
        reason = "" if silent else SILENT.get(rule.name, "no reason is known")
        lines.append(f"| {rule.name} | {rule.for_ns / 1e9:g} s | {' | '.join(cells)} | {reason} |")
    changed = [
        f"- {case.name}: {', '.join(f'{k} = {v:g}' for k, v in said.thresholds.items())}: {said.why_thresholds}"
        for case in cases
        if (said := incident(case)).thresholds
    ]
    if changed:
        lines += [
            "",
            "Thresholds that differ from the rules' own, because the double is faster than a GPU:",
            "",
            *changed,
        ]
    return "\n".join(lines) + "\n"
