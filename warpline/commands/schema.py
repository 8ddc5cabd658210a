"""`warpline schema`: the reference of all tables, as Markdown."""

from __future__ import annotations

import argparse

from warpline import schema
from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: none."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print the page that `correlator/SCHEMA.md` holds."""
    print(schema.markdown(), end="")
    return 0
