"""What an alert rule is: one SQL file under `correlator/rules/`, whose header says all but the condition.

    -- One sentence: what is wrong when this fires. {label} and {value} stand for its row's.
    -- severity: warning
    -- for: 30s
    -- threshold: least_ratio = 0.9; why this number
    -- missing: no_data
    -- runbook: what to look at first
    -- every: 15s; why it need not be looked at each time (where that is so)
    -- keep: no; why the flight recorder keeps no window for it (where that is so)
    -- nodes: alerts_edge_nodes; why it is only about the nodes that this setting names (where that is so)

The SELECT returns one row for each instance that it knows (a GPU, a model, a node): `firing` (true, false, or NULL for no
data), `value`, `name` where it likes (what its sentence calls an instance; it may change, and is no label), and any other
columns, which are the labels that tell instances apart. It binds `$now_ns` and each threshold; where its header says
`nodes`, `$nodes` too, a regular expression of their names. While that setting is empty it is off.
`missing` says what no row at all means: `no_data` (the input is not there: SM activity is off in dcgm-exporter's default
list), or `quiet` where the absence of rows is the good case (a log of bad events).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from warpline.errors import SchemaError
from warpline.settings import Settings

FOLDER = Path(__file__).parent.parent / "rules"
_UNITS = {"ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
_HEADER = re.compile(r"^-- (severity|for|missing|runbook): (.+)$")
_NODES = re.compile(r"^-- nodes: (\w+); (.+)$", re.MULTILINE)
_EVERY = re.compile(r"^-- every: (\S+); (.+)$", re.MULTILINE)
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
    nodes_setting: str = ""
    """The setting that names the nodes which it is about; empty where it is about all."""
    nodes: str = ".*"
    """A regular expression of those nodes' names; empty where there is none, which switches it off."""
    every_ns: int = 0
    """How long after a look at it the next one is worth its price; 0 for the next look of all."""

    def parameters(self, now_ns: int, overrides: Mapping[str, float]) -> dict[str, int | float | str]:
        """Return what the rule's SQL binds; `overrides` maps `<rule>.<threshold>` to a number."""
        values = {t.name: overrides.get(f"{self.name}.{t.name}", t.default) for t in self.thresholds}
        return {"now_ns": now_ns, **values} | ({"nodes": self.nodes} if self.nodes_setting else {})

    def in_force(self, settings: Settings) -> Rule:
        """Return the rule as it is about the nodes that the settings name."""
        named = [each.strip() for each in str(getattr(settings, self.nodes_setting, "*")).split(",") if each.strip()]
        return replace(self, nodes="|".join(re.escape(each).replace(r"\*", ".*") for each in named))


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
    for_ns, keeps, nodes = duration_ns(head["for"]), _KEEP.search(text) is None, _NODES.search(text)
    every = _EVERY.search(text)
    if nodes and nodes[1] not in Settings.__dataclass_fields__:
        raise SchemaError(f"rules/{name}.sql: nodes is {nodes[1]!r}, which is no setting")
    return Rule(
        name, summary, head["severity"], for_ns, head["missing"], head["runbook"], thresholds, sql, keeps,
        nodes[1] if nodes else "", every_ns=duration_ns(every[1]) if every else 0,
    )  # fmt: skip


def _threshold(name: str, line: str) -> Threshold:
    found = _THRESHOLD.match(line)
    if found is None:
        raise SchemaError(f"rules/{name}.sql: {line!r}; a threshold reads '-- threshold: name = number; reason'")
    return Threshold(found[1], float(found[2]), found[3])


def load(folder: Path = FOLDER) -> list[Rule]:
    """Return every rule of `folder`, sorted by name."""
    return [parse(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.sql"))]


def named(names: Iterable[str]) -> list[Rule]:
    """Return the rules called `names`; raise SchemaError for one that does not exist."""
    rules, wanted = load(), set(names)
    unknown = sorted(wanted - {rule.name for rule in rules})
    if unknown:
        raise SchemaError(f"alerts: no rule {unknown[0]!r}; rules are {', '.join(rule.name for rule in rules)}")
    return [rule for rule in rules if rule.name in wanted]


def in_force(settings: Settings) -> list[Rule]:
    """Return the rules that are evaluated: all but those that `alerts_off` names, and those about no node.

    Raises SchemaError where it names one that does not exist.
    """
    off = {rule.name for rule in named(filter(None, (each.strip() for each in settings.alerts_off.split(","))))}
    found = [rule.in_force(settings) for rule in load() if rule.name not in off]
    return [rule for rule in found if rule.nodes]


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
