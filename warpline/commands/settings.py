"""`warpline settings`: every setting with its default and its text."""

from __future__ import annotations

import argparse

from warpline import settings as declared
from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: none."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print a warpline.toml that holds the defaults."""
    print(declared.describe(), end="")
    return 0
