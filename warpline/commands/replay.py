"""`warpline replay`: send a sample trace through the OTLP door."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from warpline import sample
from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("directory", type=Path, help="directory of a sample trace: manifest.json and Parquet files")
    parser.add_argument("--now", action="store_true", help="move its times so that it ends now")
    parser.add_argument("--endpoint", help="OTLP/HTTP address of the correlator (collector_endpoint)")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Replay and return 0; raise SourceError where it is not a whole sample trace, StoreError where nobody takes it."""
    if args.endpoint:
        settings = dataclasses.replace(settings, collector_endpoint=args.endpoint)
    began = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(args.directory.name, total=1.0)
        found = sample.replay(
            settings,
            args.directory,
            time.time_ns() if args.now else None,
            lambda share: bar.update(task, completed=share),
        )
    seconds = (found.end_ns - found.start_ns) / 1e9
    print(
        f"{found.name}: {sum(found.rows.values()):,} rows of {len(found.rows)} tables, {seconds:.1f} s long,"
        f" sent in {time.monotonic() - began:.1f} s"
    )
    return 0
