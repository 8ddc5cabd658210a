"""`warpline inject`: lay out the CUDA library and vLLM's plugin in a folder that an engine's pod mounts."""

from __future__ import annotations

import argparse
from pathlib import Path

from warpline.errors import SourceError
from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("folder", type=Path, help="where to; an engine's pod mounts it")
    parser.add_argument("--share-rings", action="store_true", help="also let engines of any user write to ring_dir")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Write the folder and print the variables that an engine needs; raise SourceError where it cannot be written."""
    from collectors.inject import build, install

    try:
        install.install(args.folder)
        if args.share_rings:
            install.open_rings(Path(settings.ring_dir))
    except OSError as error:
        raise SourceError(f"{error.filename}: {error.strerror}; give a folder that can be written") from None
    print(f"CUDA_INJECTION64_PATH={args.folder / build.NAME}\nPYTHONPATH={args.folder / 'python'}")
    return 0
