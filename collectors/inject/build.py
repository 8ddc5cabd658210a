"""Build the injected library, `libwarpline_cuda.so`. It needs a C compiler, and neither CUDA nor its headers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
NAME = "libwarpline_cuda.so"
_FLAGS = [
    "-std=gnu11",
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Wno-format-truncation",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
]


def compiler() -> str | None:
    """Return the C compiler's path, or None where there is none."""
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")


def build(directory: Path | None = None) -> Path:
    """Return the library's path, having built it where it is missing or older than its sources.

    Raises FileNotFoundError where there is no C compiler, subprocess.CalledProcessError where it fails.
    """
    made = (directory or SOURCES / "build") / NAME
    newest = max(path.stat().st_mtime for path in SOURCES.glob("*.[ch]"))
    if made.exists() and made.stat().st_mtime >= newest:
        return made
    cc = compiler()
    if cc is None:
        raise FileNotFoundError("collectors/inject: no C compiler found; install gcc, or name one in CC")
    made.parent.mkdir(parents=True, exist_ok=True)
    partial = made.with_name(f"{NAME}.{os.getpid()}")
    files = sorted(str(path) for path in SOURCES.glob("*.c"))
    subprocess.run([cc, *_FLAGS, "-pthread", "-o", str(partial), *files, "-ldl"], check=True)
    partial.rename(made)
    return made


if __name__ == "__main__":
    sys.stdout.write(f"{build(Path(sys.argv[1]) if len(sys.argv) > 1 else None)}\n")
