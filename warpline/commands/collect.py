"""`warpline collect`: run this node's sources until stopped."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import queue
import signal

from warpline import lean  # noqa: F401  # before pyarrow
from warpline.collector import Collector
from warpline.settings import Settings

log = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--sources", help="sources to run, comma-separated (default: all that can)")
    parser.add_argument("--scope", choices=("node", "cluster"), help="what this collector speaks for")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run until SIGTERM or SIGINT, then send what is left; 0 when all was stopped in order."""
    flags = {"collector_sources": args.sources, "collector_scope": args.scope}
    settings = dataclasses.replace(settings, **{k: v for k, v in flags.items() if v is not None})
    _make_way(settings.collector_nice)
    # Not an Event: its lock is not one that a handler may take while the thread that it interrupts is about to wait.
    asked_to_stop = queue.SimpleQueue[None]()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: asked_to_stop.put(None))
    collector = Collector(settings)
    collector.start()
    log.info("collecting on node %s, sending to %s", collector.node, settings.collector_endpoint)
    asked_to_stop.get()
    collector.stop()
    return 0


def _make_way(nice: int) -> None:
    """Stand behind the workload by `nice`, before any thread begins; never in front of where we were started."""
    if nice > os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, min(nice, 19))
