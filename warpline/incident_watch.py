"""Records by itself what a trigger has kept: each window that flight recorders were asked for becomes a bundle.

Nothing but the directory remembers: a bundle is named for its window and its cause, the newest of them stay, and of what was
kept so many of the newest are recorded. So it may end and begin again at any time, also as a job that runs every minute.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from warpline.bundle import SUFFIX
from warpline.client import Client
from warpline.errors import SourceError

log = logging.getLogger(__name__)

_LATE_NS = 30_000_000_000
"""Time after a window in which collectors hear of it, send what they recorded, and that is stored."""
_NAME = re.compile(rf"\d{{8}}T\d{{6}}-\d+s-\w+{re.escape(SUFFIX)}")


@dataclass(frozen=True, slots=True)
class Window:
    """What one cause had kept: windows of several nodes that overlap are one, [since_ns, until_ns)."""

    cause: str
    since_ns: int
    until_ns: int
    nodes: frozenset[str]

    @property
    def start(self) -> str:
        """The first part of its bundle's name."""
        return f"{datetime.fromtimestamp(self.since_ns / 1e9, UTC):%Y%m%dT%H%M%S}"

    @property
    def file(self) -> str:
        """Its bundle's name."""
        return f"{self.start}-{(self.until_ns - self.since_ns) // 1_000_000_000}s-{self.cause}{SUFFIX}"

    @property
    def about(self) -> str:
        """What there is to say of it, with the names of its nodes."""
        return f"{self.cause}; kept on {', '.join(sorted(self.nodes - {''})) or 'all nodes'}, recorded by itself"


def merged(kept: Iterable[Mapping[str, Any]]) -> list[Window]:
    """Return what was kept (`Client.kept`), the oldest first: one for each cause and stretch of time."""
    found: list[Window] = []
    last: dict[str, int] = {}
    for each in sorted(kept, key=lambda each: int(each["since_ns"])):
        made = Window(each["cause"], each["since_ns"], each["until_ns"], frozenset([each["node"]]))
        at = last.get(made.cause)
        if at is not None and made.since_ns < found[at].until_ns:
            before = found[at]
            until_ns, nodes = max(before.until_ns, made.until_ns), before.nodes | made.nodes
            found[at] = replace(before, until_ns=until_ns, nodes=nodes)
        else:
            last[made.cause] = len(found)
            found.append(made)
    return found


Write = Callable[[Path, Window], object]
"""Writes the bundle of a window to a file."""


class Watch:
    """Keeps the bundles of what was kept in a directory, the `most` newest of them."""

    def __init__(self, client: Client, directory: Path, most: int, causes: Collection[str], write: Write) -> None:
        """Ask `client` what was kept for `causes` (all where there are none), and have each written by `write`."""
        self._client, self._directory, self._most = client, directory, most
        self._causes, self._write = causes, write
        self._empty: set[str] = set()

    def look(self, now_ns: int) -> list[Path]:
        """Record what is over by `now_ns` and was not recorded yet; return the new files. Raises StoreError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        wanted = [each for each in merged(self._client.kept()) if not self._causes or each.cause in self._causes]
        over = [each for each in wanted if each.until_ns + _LATE_NS <= now_ns][-self._most :]
        made = [self._record(each) for each in over if each.file not in self._empty]
        self._drop_old()
        return [path for path in made if path is not None and path.exists()]

    def _record(self, window: Window) -> Path | None:
        path = self._directory / window.file
        if path.exists():
            return None
        try:
            self._write(path, window)
        except SourceError as error:
            log.warning("%s: %s", window.file, error)
            self._empty.add(window.file)
            return None
        for other in self._directory.glob(f"{window.start}-*s-{window.cause}{SUFFIX}"):
            if other != path:  # The same window before another node's was added to it.
                other.unlink()
        return path

    def _drop_old(self) -> None:
        ours = sorted(path for path in self._directory.iterdir() if _NAME.fullmatch(path.name))
        for path in ours[: -self._most]:
            path.unlink()
