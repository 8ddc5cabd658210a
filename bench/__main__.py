"""Run all bench groups, or those named: each module of this package with a `run()` is one."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import bench


def groups() -> list[str]:
    """Return the names of all groups, sorted."""
    found = pkgutil.iter_modules([str(Path(bench.__file__).parent)])
    return sorted(m.name for m in found if not m.name.startswith("_") and not m.ispkg)


def main(asked: list[str]) -> int:
    """Run the groups asked for, all if none; return 2 where one does not exist."""
    unknown = [name for name in asked if name not in groups()]
    if unknown:
        print(f"bench: no group {unknown[0]!r}; groups are {', '.join(groups())}", file=sys.stderr)
        return 2
    for name in asked or groups():
        print(f"# {name}", flush=True)
        importlib.import_module(f"bench.{name}").run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
