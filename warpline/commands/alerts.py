"""`warpline alerts`: the rules, and when each would have fired on recorded incidents."""

from __future__ import annotations

import argparse
import importlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from warpline import bundle
from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|test")
    actions.add_parser("list", help="print every rule: when it fires, with which thresholds and why")
    test = actions.add_parser("test", help="say when rules would have fired on recorded incidents")
    test.add_argument("rules", nargs="*", metavar="RULE", help="rules to test (default: all)")
    test.add_argument("--on", nargs="+", type=Path, required=True, metavar="FILE", help="bundles or sample traces")
    test.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="a recording of how it was: its times are moved to a week before each, for rules that compare with last week",
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print and return 0; raise SchemaError for a rule that does not exist, SourceError for a file that is no incident."""
    # By name: the core does not import the correlator, whose dependencies a node's image does not have.
    backtest = importlib.import_module("correlator.alerting.backtest")
    rules = backtest.chosen(args.rules if args.action == "test" else [])
    if args.action == "list":
        return _list(rules)
    for file in args.on:
        _test(backtest, rules, file, args.baseline, settings)
    return 0


def _list(rules: list[Any]) -> int:
    for rule in rules:
        print(f"{rule.name} ({rule.severity}, for {rule.for_ns / 1e9:g} s)\n    {rule.summary}")
        for threshold in rule.thresholds:
            print(f"    {threshold.name} = {threshold.default:g}: {threshold.reason}")
        print(f"    without input: {rule.missing}; look at: {rule.runbook}\n")
    return 0


def _unpacked(file: Path, folder: Path) -> Path:
    """Return the directory of a sample trace, or that to which a bundle was unpacked."""
    if file.is_dir():
        return file
    bundle.unpack(file, folder / file.stem)
    return folder / file.stem


def _test(backtest: Any, rules: list[Any], file: Path, baseline: Path | None, settings: Settings) -> None:
    with tempfile.TemporaryDirectory(prefix="warpline-backtest-") as folder:
        directory = _unpacked(file, Path(folder) / "on")
        earlier = None if baseline is None else _unpacked(baseline, Path(folder) / "baseline")
        with (
            backtest.opened(directory, settings, earlier) as (store, found),
            Progress(console=Console(stderr=True), transient=True) as bar,
        ):
            task = bar.add_task(f"{len(rules)} rules on {file.name}", total=1.0)
            window = found.start_ns, found.end_ns
            firings, _ = backtest.run(rules, store, window, progress=lambda share: bar.update(task, completed=share))
    shown = Table(title=f"{file.name}: {len(firings)} firings of {len(rules)} rules")
    for column in ("rule", "fired at (UTC)", "for", "on", "what it said"):
        shown.add_column(column)
    for each in firings:
        at = datetime.fromtimestamp(each.start_ns / 1e9, UTC).strftime("%H:%M:%S")
        length = "to the end" if each.end_ns is None else f"{(each.end_ns - each.start_ns) / 1e9:.0f} s"
        shown.add_row(each.rule, at, length, each.labels, each.summary)
    Console(width=None if Console().is_terminal else 200).print(shown)
