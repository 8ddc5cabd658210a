"""Build the CUDA double: `libcuda.so.1`, `libcudart.so.12` and `libcupti.so.12` in one directory.

A process sees it through LD_LIBRARY_PATH. Neither CUDA nor its headers are needed, only a C compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
_FLAGS = [
    *("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread"),
    # Each function begins with `push %rbp`, which a uprobe on x86 emulates instead of single-stepping.
    *("-fno-omit-frame-pointer", "-fno-shrink-wrap", "-fno-schedule-insns2", "-fcf-protection=none"),
]
_LIBRARIES = {
    "libcuda.so.1": (("device.c", "driver.c", "graphs.c"), ("-ldl",)),
    "libcudart.so.12": (("runtime.c",), ("libcuda.so.1",)),
    "libcupti.so.12": (("cupti.c",), ("libcuda.so.1",)),
}


def compiler() -> str | None:
    """Return the C compiler's path, or None where there is none."""
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")


def build(directory: Path | None = None) -> Path:
    """Build what is missing or older than its sources, and return the directory that holds the three libraries.

    Raises FileNotFoundError where there is no C compiler, subprocess.CalledProcessError where it fails.
    """
    into = directory or SOURCES / "build"
    into.mkdir(parents=True, exist_ok=True)
    newest = max(path.stat().st_mtime for path in SOURCES.glob("*.[ch]"))
    for name, (sources, needs) in _LIBRARIES.items():
        made = into / name
        if not made.exists() or made.stat().st_mtime < newest:
            _compile(made, sources, needs)
    return into


def _compile(made: Path, sources: tuple[str, ...], needs: tuple[str, ...]) -> None:
    cc = compiler()
    if cc is None:
        raise FileNotFoundError("cuda double: no C compiler found; install gcc, or name one in CC")
    partial = made.with_name(f"{made.name}.{os.getpid()}")
    links = [str(made.parent / each) if each.startswith("lib") else each for each in needs]
    command = [cc, *_FLAGS, f"-Wl,-soname,{made.name}", "-Wl,-rpath,$ORIGIN", "-o", str(partial)]
    subprocess.run([*command, *(str(SOURCES / each) for each in sources), *links], check=True)
    partial.rename(made)


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
