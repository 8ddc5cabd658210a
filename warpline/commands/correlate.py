"""`warpline correlate`: receive, store, join and serve until stopped."""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import queue
import signal
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn

from warpline.settings import Settings

log = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; all else is in the settings."""
    parser.add_argument("--rebuild", action="store_true", help="forget what the joins found, join all again, and stop")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run until SIGTERM or SIGINT, then drain; 0 when all that was acknowledged is stored, else 1 (it is in the spool)."""
    if args.rebuild:
        return _rebuild(settings)
    # Not an Event: its lock is not one that a handler may take while the thread that it interrupts is about to wait.
    asked_to_stop = queue.SimpleQueue[None]()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: asked_to_stop.put(None))
    # By name: the core does not import the correlator, whose dependencies a node's image does not have.
    correlator = importlib.import_module("correlator.process").Correlator(settings)
    correlator.start()
    gc.freeze()  # What was imported stays: looking through it again and again took 4 % of what requests cost.
    print(f"OTLP gRPC   {correlator.receiver.grpc_address}", file=sys.stderr)
    print(f"OTLP HTTP   {correlator.receiver.http_address}", file=sys.stderr)
    print(f"query API   {correlator.query.address}", file=sys.stderr, flush=True)
    asked_to_stop.get()
    log.info("stopping: no new batches, storing what was accepted")
    return 0 if correlator.stop() else 1


def _rebuild(settings: Settings) -> int:
    """Join everything that is stored anew; the correlator must not run meanwhile, for it owns the files."""
    store = importlib.import_module("correlator.storage.store").Store(settings)
    joins = importlib.import_module("correlator.joins.stages").Joins(settings, store)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            tasks: dict[str, TaskID] = {}

            def told(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage, total=total)
                bar.update(tasks[stage], completed=done)

            joins.rebuild(told)
    finally:
        store.close()
    if tasks:
        print(f"{settings.state_dir}: joined anew, by {len(tasks)} stages", file=sys.stderr)
    else:
        print(
            f"{settings.state_dir}: nothing is stored there to join; state_dir says where the store is", file=sys.stderr
        )
    return 0
