"""Run all bench groups, or those named: each module of this package with a `run()` is one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import bench


def groups() -> list[str]:
    """Return the names of all groups, sorted: what only helps others has no `run()`."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in Path(bench.__file__).parent.glob("*.py")}
    return sorted(name for name, text in texts.items() if not name.startswith("_") and "\ndef run(" in text)


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
