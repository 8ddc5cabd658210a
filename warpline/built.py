"""Where the C parts are that `setup.py` builds beside the Python that calls them."""

from __future__ import annotations

import importlib.machinery
import logging
from pathlib import Path

log = logging.getLogger(__name__)


def library(name: str, directory: Path) -> str | None:
    """Return the path of the C part `name` (in full, with dots) in `directory`.

    None where it was not built, and where it is older than a source beside it: the Python calls what the source says, and
    functions that have other arguments by now end the process.
    """
    found = importlib.machinery.PathFinder.find_spec(name, [str(directory)])
    if found is None or found.origin is None:
        return None
    built = Path(found.origin).stat().st_mtime
    if any(source.stat().st_mtime > built for source in directory.rglob("*.[ch]")):
        log.warning("%s was built from older sources, the slower Python stands in for it; run setup.sh", found.origin)
        return None
    return found.origin
