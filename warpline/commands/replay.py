"""`warpline replay`: a sample trace or an incident bundle through the OTLP door, as fast as it goes or as it happened."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from warpline import own, sample
from warpline.errors import SettingsError
from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("path", type=Path, help="an incident bundle, or the directory of a sample trace")
    parser.add_argument("--own", action="store_true", help="into a correlator of its own, as a bundle always goes")
    parser.add_argument(
        "--speed", default="full", help="full, or times its own pace: 1, 10 (in a correlator of its own)"
    )
    parser.add_argument("--seconds", type=float, help="keep that correlator, with a dashboard, so long; 0 until Ctrl-C")
    moved = parser.add_mutually_exclusive_group()
    moved.add_argument("--now", action="store_true", help="move its times so that it ends now")
    moved.add_argument("--ago", metavar="TIME", help="move its times so that it ended so long ago: 90s, 10m, 168h")
    parser.add_argument("--endpoint", help="OTLP/HTTP address of the correlator (collector_endpoint)")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Replay and return 0.

    Raises SettingsError for flags that do not go together, SourceError where it is not whole, StoreError where
    nobody takes it.
    """
    if args.own or not args.path.is_dir():
        if args.now or args.ago or args.endpoint:
            raise SettingsError(
                "replay: --now, --ago and --endpoint are for sample traces that go to a running correlator"
            )
        return show(args.path, settings, _speed(args.speed), args.seconds)
    if args.speed != "full":
        raise SettingsError("replay: --speed needs a correlator of its own; add --own")
    return _into_running(args, settings)


def show(file: Path, settings: Settings, speed: float, seconds: float | None) -> int:
    """Replay into a correlator of its own, say what came of it, and keep it for `seconds` with a dashboard (0: for ever)."""
    with (
        _bar(file.name) as told,
        own.opened(file, settings, live=speed > 0, dashboard=seconds is not None, progress=told) as mine,
    ):
        report = mine.report
        for loss in report.losses():
            print(f"{file}: {loss}", file=sys.stderr)
        mine.replay(speed, told)
        firings = mine.evaluate(told)
        took, rows = mine.seconds, sum(report.manifest.rows.values()) - report.lost_rows
        print(
            f"{file}: {rows:,} rows of {took['lasted']:.1f} s; stored in {took['stored']:.1f} s, joined in"
            f" {took['joined']:.1f} s; {firings} alerts fired",
            flush=True,
        )
        if seconds is not None:
            start, end = report.manifest.start_ns, report.manifest.end_ns
            print(f"look at it: http://{mine.settings.dashboard_address}/?window={start}-{end}", flush=True)
            _sleep(seconds)
    return 0


def _into_running(args: argparse.Namespace, settings: Settings) -> int:
    if args.endpoint:
        settings = dataclasses.replace(settings, collector_endpoint=args.endpoint)
    began = time.monotonic()
    with _bar(args.path.name) as told:
        found = sample.replay(settings, args.path, _end_ns(args.now, args.ago), told)
    seconds = (found.end_ns - found.start_ns) / 1e9
    print(
        f"{found.name}: {sum(found.rows.values()):,} rows of {len(found.rows)} tables, {seconds:.1f} s long,"
        f" sent in {time.monotonic() - began:.1f} s"
    )
    return 0


def _end_ns(now: bool, ago: str | None) -> int | None:
    """Return when a replay is to end; None for when it did."""
    if ago is None:
        return time.time_ns() if now else None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", ago)
    if found is None:
        raise SettingsError(f"replay: --ago is {ago!r}; give a number and s, m or h, such as 168h for a week")
    return time.time_ns() - int(float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] * 1e9)


def _speed(text: str) -> float:
    """Return how many times faster than it happened, 0 for as fast as it goes."""
    try:
        speed = 0.0 if text == "full" else float(text)
    except ValueError:
        speed = -1.0
    if speed < 0 or (speed == 0) != (text == "full"):
        raise SettingsError(f"replay: --speed is {text!r}; give full or a number above 0, such as 10")
    return speed


@contextmanager
def _bar(name: str) -> Iterator[own.Progress]:
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _sleep(seconds: float) -> None:
    end = time.monotonic() + seconds if seconds else float("inf")
    try:
        while time.monotonic() < end:
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))
    except KeyboardInterrupt:
        print("closing", file=sys.stderr)
