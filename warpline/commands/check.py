"""`warpline check`: which sources can run here; for the others, why not and what to do."""

from __future__ import annotations

import argparse

from warpline import source
from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: none."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print one line a source; the exit code is 0 even where none can run, since nothing failed."""
    for name in source.names():
        found = source.load(name)
        print(f"{name:<18}{found.SCOPE:<11}{found.check(settings) or 'ready'}")
    return 0
