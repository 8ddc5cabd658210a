"""`warpline export`: write a recording, a request or a window as a Chrome trace for Perfetto or speedscope."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from warpline.client import Client
from warpline.errors import SettingsError
from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recording", help="uid of a recording, as `warpline import` prints it")
    what.add_argument("--request", help="any id of a request")
    what.add_argument("--window", metavar="FROM:TO", help="two node times in ns")
    parser.add_argument("-o", "--output", type=Path, help="file to write (.json.gz); left out, standard output")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Write the trace and return 0; raise SettingsError or StoreError where there is none to write."""
    trace = Client(settings).get("/api/perfetto", _asked(args)).data
    if args.output is None:
        sys.stdout.buffer.write(trace)
        return 0
    try:
        args.output.write_bytes(trace)
    except OSError as error:
        raise SettingsError(
            f"export: {args.output}: {error.strerror or error}; give a file that can be written"
        ) from None
    print(f"{args.output}: {len(trace):,} bytes; open it in ui.perfetto.dev or speedscope", file=sys.stderr)
    return 0


def _asked(args: argparse.Namespace) -> dict[str, str]:
    if args.window is None:
        return {"recording": args.recording} if args.recording else {"request": args.request}
    found = re.fullmatch(r"(\d+):(\d+)", args.window)
    if found is None:
        raise SettingsError(f"export: --window is {args.window!r}; give two times in ns, such as 1700000000000000000:…")
    return {"from_ns": found[1], "to_ns": found[2]}
