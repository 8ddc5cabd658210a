"""`warpline demo`: a model server, a client load and all of Warpline on this machine."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--seconds", type=float, default=0, help="end after so many seconds (default: at Ctrl-C)")
    parser.add_argument(
        "--record", type=Path, metavar="DIR", help="run the first load only and keep it as a sample trace"
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run it; 0 when every request that was sent was found, also when it was ended by Ctrl-C."""
    from demo import run as demo

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # However it is ended, what it started ends too.
    try:
        return demo.run(args.seconds, lambda line: print(line, flush=True), args.record)
    except KeyboardInterrupt:
        return 0
