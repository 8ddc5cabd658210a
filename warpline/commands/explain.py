"""`warpline explain`: where one request's wall time went, and why."""

from __future__ import annotations

import argparse
import importlib
import json

from warpline.client import Client
from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "request", help="any id of the request: its response id, x-request-id, trace id or the engine's id"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print the explanation and return 0; raise StoreError where no request has this id."""
    # By name: the core does not import the correlator.
    explain = importlib.import_module("correlator.explain")
    found = explain.explain(Client(settings).view, args.request)
    if args.json:
        print(json.dumps(explain.as_json(found), indent=1, default=str))
    else:
        print("\n".join(explain.lines(found)))
    return 0
