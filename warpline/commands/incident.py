"""`warpline incident`: keep what collectors recorded of a window, write it as one portable file, also whenever a trigger has
kept one, verify one, open one."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from warpline import bundle
from warpline.client import Client
from warpline.commands import replay
from warpline.errors import SettingsError, StoreError
from warpline.incident_watch import Watch, Window
from warpline.settings import Settings

log = logging.getLogger(__name__)

_LOOK_S = 10.0
_UNITS = {"s": 1, "m": 60, "h": 3600}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="keep|record|watch|verify|open")
    keep = actions.add_parser("keep", help="ask collectors for all that they recorded of a window, and await it")
    _add_window(keep)
    keep.add_argument("--node", default="", help="one node (default: all)")
    keep.add_argument("--request", help="id of a request: the nodes that it met, around its time")
    record = actions.add_parser("record", help="write a window of what is stored as a bundle")
    _add_window(record)
    record.add_argument("--about", default="", help="what happened, in a sentence")
    _add_pseudonyms(record)
    record.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    watch = actions.add_parser("watch", help="record each window that an alert, a slow request or a person has kept")
    watch.add_argument("directory", type=Path, help="where the bundles go")
    watch.add_argument("--most", type=int, default=20, help="bundles that stay, the newest (default: 20)")
    watch.add_argument("--causes", default="", help="rules, slow_request, asked, comma-separated (default: all)")
    watch.add_argument("--once", action="store_true", help="record what is over, and end")
    _add_pseudonyms(watch)
    verify = actions.add_parser("verify", help="say whether a bundle is whole")
    verify.add_argument("file", type=Path)
    opened = actions.add_parser("open", help="open a bundle in a correlator and dashboard of its own")
    opened.add_argument("file", type=Path)
    opened.add_argument("--seconds", type=float, default=0, help="end after so many seconds (default: at Ctrl-C)")


def _add_pseudonyms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pseudonyms", action="store_true", help="replace names of pods, namespaces and nodes")


def _add_window(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--around", default="now", help="its middle: now, 14:05, 2026-11-24T14:05:30 (UTC)")
    parser.add_argument("--for", dest="length", default="10m", help="its length: 90s, 10m, 2h")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do it; raise SourceError for a file that is no bundle. `verify` returns 1 where a table is damaged."""
    actions = {"keep": _keep, "record": _record, "watch": _watch, "verify": _verify, "open": _open}
    return actions[args.action](args, settings)


def window(around: str, length: str, now_ns: int) -> tuple[int, int]:
    """Return the window of node time (ns) of `length` around a moment given as a person writes it, in UTC.

    Raises SettingsError where it is not one.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", length)
    if found is None:
        raise SettingsError(f"incident: --for is {length!r}; give a number and s, m or h, such as 10m")
    half_ns = int(float(found[1]) * _UNITS[found[2]] * 5e8)
    if around == "now":
        return now_ns - 2 * half_ns, now_ns
    today = datetime.fromtimestamp(now_ns / 1e9, UTC).date()
    try:
        moment = datetime.fromisoformat(around if "T" in around or len(around) > 8 else f"{today}T{around}")
    except ValueError:
        raise SettingsError(f"incident: --around is {around!r}; give now, 14:05 or 2026-11-24T14:05:30") from None
    middle_ns = int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1e9)
    return middle_ns - half_ns, middle_ns + half_ns


def _keep(args: argparse.Namespace, settings: Settings) -> int:
    client = Client(settings)
    if args.request:
        found = client.view("request_found", id=args.request).to_pylist()
        if not found:
            raise StoreError(f"incident: no request is known by {args.request!r}; it may have aged out")
        kept = client.keep(request=found[0]["request_uid"], start_ns=found[0]["start_ns"])
    else:
        since_ns, until_ns = window(args.around, args.length, time.time_ns())
        kept = client.keep(since_ns=since_ns, until_ns=until_ns, node=args.node)
    for each in kept:
        since, until = (datetime.fromtimestamp(each[end] / 1e9, UTC) for end in ("since_ns", "until_ns"))
        print(f"{each['node'] or 'all nodes'}: {since:%Y-%m-%d %H:%M:%S} to {until:%H:%M:%S} UTC")
    return 0


def _record(args: argparse.Namespace, settings: Settings) -> int:
    asked = window(args.around, args.length, time.time_ns())
    _write(Client(settings), args.output, asked, args.about, args.pseudonyms)
    return 0


def _watch(args: argparse.Namespace, settings: Settings) -> int:
    if args.most < 1:
        raise SettingsError(f"incident: --most is {args.most}; give 1 or more")
    client, causes = Client(settings), [each.strip() for each in args.causes.split(",") if each.strip()]

    def write(path: Path, kept: Window) -> None:
        about = f"{kept.cause}, recorded by itself" if args.pseudonyms else kept.about
        _write(client, path, (kept.since_ns, kept.until_ns), about, args.pseudonyms)

    watch = Watch(client, args.directory, args.most, causes, write)
    while True:
        try:
            watch.look(time.time_ns())
        except StoreError as error:
            if args.once:
                raise
            log.warning("%s", error)
        if args.once:
            return 0
        time.sleep(_LOOK_S)


def _write(client: Client, output: Path, asked: tuple[int, int], about: str, pseudonyms: bool) -> None:
    # Beside the file: where it fits, they do, and /tmp is memory on many machines.
    with (
        tempfile.TemporaryDirectory(prefix=".warpline-incident-", dir=output.resolve().parent) as folder,
        Progress(console=Console(stderr=True), transient=True) as bar,
    ):
        directory = Path(folder) / output.stem
        task = bar.add_task("reading", total=1.0)
        found = bundle.record(
            client, directory, asked, about, pseudonyms, lambda share: bar.update(task, completed=share)
        )
        packing = bar.add_task("packing", total=1.0)
        rules = _rules(client, pseudonyms)
        bundle.pack(directory, output, rules, lambda share: bar.update(packing, completed=share))
    size = output.stat().st_size / 1e6
    print(f"{output}: {sum(found.rows.values()):,} rows of {len(found.rows)} tables, {size:.1f} MB", flush=True)


def _rules(client: Client, pseudonyms: bool) -> str:
    """Return the alert rules in force as a bundle keeps them; with `pseudonyms` without the nodes that they are about."""
    hidden = ("nodes",) if pseudonyms else ()
    return json.dumps([{key: value for key, value in rule.items() if key not in hidden} for rule in client.rules()])


def _unpacked(file: Path, directory: Path) -> bundle.Report:
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(file.name, total=1.0)
        report = bundle.unpack(file, directory, lambda share: bar.update(task, completed=share))
    for loss in report.losses():
        print(f"{file}: {loss}", file=sys.stderr)
    return report


def _verify(args: argparse.Namespace, settings: Settings) -> int:
    with tempfile.TemporaryDirectory(prefix="warpline-incident-") as folder:
        report = _unpacked(args.file, Path(folder) / args.file.stem)
    rows, tables = sum(report.manifest.rows.values()), len(report.manifest.rows)
    state = f"{report.lost_rows:,} of its rows are lost" if report.damaged else "whole"
    print(f"{args.file}: {state}; {rows:,} rows of {tables} tables; {report.manifest.about or 'nothing said about it'}")
    return 1 if report.damaged else 0


def _open(args: argparse.Namespace, settings: Settings) -> int:
    return replay.show(args.file, settings, speed=0, seconds=args.seconds)
