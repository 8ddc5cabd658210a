"""`warpline check`: which sources can run here, and what they cannot see; for the others, why not and what to do."""

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
        reason = found.check(settings)
        limits = getattr(found, "limits", None)
        ready = f"ready; {limits(settings)}" if limits else "ready"
        print(f"{name:<18}{found.SCOPE:<11}{reason or ready}")
    return 0
