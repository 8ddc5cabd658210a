"""What an alert rule is: one SQL file under `correlator/rules/`, whose header says all but the condition.

    -- One sentence: what is wrong when this fires. {label} and {value} stand for its row's.
    -- severity: warning
    -- for: 30s
    -- threshold: least_ratio = 0.9; why this number
    -- missing: no_data
    -- runbook: what to look at first
    -- keep: no; why the flight recorder keeps no window for it (where that is so)

The SELECT returns one row for each instance that it knows (a GPU, a model, a node): `firing` (true, false, or NULL for no
data), `value`, and any other columns, which are the labels that tell instances apart. It binds `$now_ns` and each threshold.
`missing` says what no row at all means: `no_data` (the input is not there: SM activity is off in dcgm-exporter's default
list), or `quiet` where the absence of rows is the good case (a log of bad events).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from warpline.errors import SchemaError

FOLDER = Path(__file__).parent.parent / "rules"
_UNITS = {"ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
_HEADER = re.compile(r"^-- (severity|for|missing|runbook): (.+)$")
_KEEP = re.compile(r"^-- keep: no; (.+)$", re.MULTILINE)
_THRESHOLD = re.compile(r"^-- threshold: (\w+) = ([-\d.eE]+); (.+)$")


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number that a rule compares with, and why it is that number."""

    name: str
    default: float
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert rule; `name` is its file's."""

    name: str
    summary: str
    severity: str
    for_ns: int
    missing: str
    runbook: str
    thresholds: tuple[Threshold, ...]
    sql: str
    keeps: bool = True
    """Whether collectors are asked for what they recorded around it."""

    def parameters(self, now_ns: int, overrides: Mapping[str, float]) -> dict[str, int | float]:
        """Return what the rule's SQL binds; `overrides` maps `<rule>.<threshold>` to a number."""
        values = {t.name: overrides.get(f"{self.name}.{t.name}", t.default) for t in self.thresholds}
        return {"now_ns": now_ns, **values}


def duration_ns(text: str) -> int:
    """Return the ns of a duration such as `30s`, `5m` or `0s`; raise SchemaError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text.strip())
    if found is None:
        raise SchemaError(f"duration {text!r}: give a number with ms, s, m or h, such as 30s")
    return int(float(found[1]) * _UNITS[found[2]])


def parse(name: str, text: str) -> Rule:
    """Return the rule that a file's text declares; raise SchemaError that names what its header lacks."""
    lines = text.splitlines()
    head = {found[1]: found[2] for line in lines if (found := _HEADER.match(line))}
    absent = [key for key in ("severity", "for", "missing", "runbook") if key not in head]
    if absent or not lines[0].startswith("-- "):
        raise SchemaError(f"rules/{name}.sql: its header lacks {', '.join(absent) or 'a summary in its first line'}")
    if head["severity"] not in ("critical", "warning", "info") or head["missing"] not in ("no_data", "quiet"):
        raise SchemaError(f"rules/{name}.sql: severity is {head['severity']!r}, missing is {head['missing']!r}")
    thresholds = tuple(_threshold(name, line) for line in lines if line.startswith("-- threshold:"))
    summary = lines[0].removeprefix("-- ")
    sql = "\n".join(line for line in lines if not line.startswith("--"))
    for_ns, keeps = duration_ns(head["for"]), _KEEP.search(text) is None
    return Rule(name, summary, head["severity"], for_ns, head["missing"], head["runbook"], thresholds, sql, keeps)


def _threshold(name: str, line: str) -> Threshold:
    found = _THRESHOLD.match(line)
    if found is None:
        raise SchemaError(f"rules/{name}.sql: {line!r}; a threshold reads '-- threshold: name = number; reason'")
    return Threshold(found[1], float(found[2]), found[3])


def load(folder: Path = FOLDER) -> list[Rule]:
    """Return every rule of `folder`, sorted by name."""
    return [parse(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.sql"))]


def overrides(text: str, rules: list[Rule]) -> dict[str, float]:
    """Read the setting `alerts_thresholds`: `rule.threshold=number`, comma-separated; raise SchemaError for a wrong one."""
    known = {f"{rule.name}.{t.name}" for rule in rules for t in rule.thresholds}
    found: dict[str, float] = {}
    for each in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = each.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise SchemaError(f"alerts_thresholds: {each!r} is not rule.threshold=number") from None
        if name.strip() not in known:
            raise SchemaError(f"alerts_thresholds: no threshold {name.strip()!r}; `warpline alerts list` prints all")
    return found
