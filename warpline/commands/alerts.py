"""`warpline alerts`: the rules, and when each would have fired on recorded incidents."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from warpline import bundle
from warpline.settings import Settings

_WIDTH = 200
"""Columns of a table that goes to a file."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|test")
    actions.add_parser("list", help="print every rule: when it fires, with which thresholds and why")
    test = actions.add_parser("test", help="say when rules would have fired on recorded incidents")
    test.add_argument("rules", nargs="*", metavar="RULE", help="rules to test (default: those in force)")
    test.add_argument("--on", nargs="+", type=Path, required=True, metavar="FILE", help="bundles or sample traces")
    test.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="RULE.NAME=NUMBER",
        help="a threshold to try in place of the one in force (as in alerts_thresholds); may be given again",
    )
    test.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="a recording of how it was: its times are moved to a week before each, for rules that compare with last week",
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print and return 0; raise SchemaError for a rule that does not exist, SourceError for a file that is no incident."""
    # By name: the core does not import the correlator, whose dependencies a node's image does not have.
    alert_rule = importlib.import_module("correlator.alerting.alert_rule")
    if args.action == "list":
        return _list(alert_rule.load(), {rule.name for rule in alert_rule.in_force(settings)})
    backtest = importlib.import_module("correlator.alerting.backtest")
    rules = backtest.chosen(args.rules, settings)
    numbers = alert_rule.overrides(",".join([settings.alerts_thresholds, *args.threshold]), alert_rule.load())
    found = {file.name: _tested(backtest, rules, numbers, file, args.baseline, settings) for file in args.on}
    console = Console(width=None if Console().is_terminal else _WIDTH)
    for name, tested in found.items():
        _print_firings(console, name, tested, len(rules))
    if len(found) > 1:
        _print_matrix(console, rules, found)
    off = {rule.name for rule in alert_rule.load()} - {rule.name for rule in rules}
    if off and not args.rules:
        print(f"off in the settings, so not tried (name them to try them): {', '.join(sorted(off))}")
    return 0


def _list(rules: list[Any], in_force: set[str]) -> int:
    for rule in rules:
        off = "" if rule.name in in_force else ", off in the settings"
        print(f"{rule.name} ({rule.severity}, for {rule.for_ns / 1e9:g} s{off})\n    {rule.summary}")
        if rule.nodes_setting:
            print(f"    only about the nodes that {rule.nodes_setting} names")
        for threshold in rule.thresholds:
            print(f"    {threshold.name} = {threshold.default:g}: {threshold.reason}")
        print(f"    without input: {rule.missing}; look at: {rule.runbook}\n")
    return 0


@dataclasses.dataclass(frozen=True)
class _Tested:
    """What rules made of one recording: each firing, and by rule what there is to say where it did not fire."""

    start_ns: int
    firings: list[Any]
    silent: Mapping[str, str]


def _unpacked(file: Path, folder: Path) -> Path:
    """Return the directory of a sample trace, or that to which a bundle was unpacked."""
    if file.is_dir():
        return file
    bundle.unpack(file, folder / file.stem)
    return folder / file.stem


def _tested(
    backtest: Any, rules: list[Any], numbers: dict[str, float], file: Path, baseline: Path | None, settings: Settings
) -> _Tested:
    with tempfile.TemporaryDirectory(prefix="warpline-backtest-") as folder:
        directory = _unpacked(file, Path(folder) / "on")
        earlier = None if baseline is None else _unpacked(baseline, Path(folder) / "baseline")
        with (
            backtest.opened(directory, settings, earlier) as (store, found),
            Progress(console=Console(stderr=True), transient=True) as bar,
        ):
            task = bar.add_task(f"{len(rules)} rules on {file.name}", total=1.0)
            seen, window = backtest.Seen(), (found.start_ns, found.end_ns)
            firings, _ = backtest.run(
                rules, store, window, numbers, lambda share: bar.update(task, completed=share), seen.note
            )
    return _Tested(found.start_ns, firings, {rule.name: seen.why_not(rule) for rule in rules})


def _print_firings(console: Console, name: str, tested: _Tested, rules: int) -> None:
    shown = Table(title=f"{name}: {len(tested.firings)} firings of {rules} rules", title_justify="left")
    for column in ("rule", "fired at (UTC)", "for", "on", "what it said"):
        shown.add_column(column)
    for each in tested.firings:
        at = datetime.fromtimestamp(each.start_ns / 1e9, UTC).strftime("%H:%M:%S")
        shown.add_row(each.rule, at, _lasted(each), each.labels, each.summary)
    if tested.firings:
        console.print(shown)
    else:
        console.print(shown.title)
    fired = {each.rule for each in tested.firings}
    silent = [f"  {rule}: {why}" for rule, why in tested.silent.items() if rule not in fired]
    if silent:
        console.print("did not fire, with the values that they saw:", *silent, "", sep="\n", highlight=False)


def _lasted(firing: Any) -> str:
    return "to the end" if firing.end_ns is None else f"{(firing.end_ns - firing.start_ns) / 1e9:.0f} s"


def _print_matrix(console: Console, rules: list[Any], found: Mapping[str, _Tested]) -> None:
    shown = Table(title="rules and incidents: when each fired first, and for how long", title_justify="left")
    for column in ("rule", *found):
        shown.add_column(column)
    for rule in rules:
        shown.add_row(rule.name, *(_cell(rule.name, tested) for tested in found.values()))
    console.print(shown)


def _cell(rule: str, tested: _Tested) -> str:
    first = next((each for each in tested.firings if each.rule == rule), None)
    if first is None:
        return tested.silent[rule]
    return f"after {(first.start_ns - tested.start_ns) / 1e9:.0f} s, {_lasted(first)}"
