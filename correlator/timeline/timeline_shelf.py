"""Scopes and their bars that were looked at lately, kept within a bound of memory and as fresh as they need to be."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from correlator.timeline import timeline_path, timeline_scope
from correlator.timeline.timeline_bars import ScopeBars
from correlator.timeline.timeline_path import Path
from correlator.timeline.timeline_reading import Reading
from correlator.timeline.timeline_scope import Scope, Views
from warpline.errors import StoreError

OLD_S, OLD_LIVE_S = 60.0, 2.0
"""Age at which a page that opens reads a scope anew; the shorter one where rows may still come."""

_PATIENCE = 20
"""What took long to read may be older: this many times as old as it took."""

_MOST_SCOPES = 256

Key = tuple[str, ...]
"""What an address says that its timeline is about."""


@dataclass(eq=False)
class Opened:
    """One reading of a scope that is being looked at."""

    key: Key
    scope: Scope
    read_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    reading: Reading | None = None
    tracks: bytes | None = None
    path: Path | None = None
    name: str = field(default_factory=lambda: secrets.token_hex(6))

    @property
    def version(self) -> str:
        """Names this reading, and its bounds: times count from its start."""
        return f"{self.scope.from_ns:x}.{self.scope.to_ns:x}.{self.name}"

    @property
    def old(self) -> bool:
        """Whether a page that opens should read it anew."""
        if self.reading is not None and not self.reading.done:
            return False
        took_s = self.reading.took_s if self.reading is not None else 0.0
        return time.monotonic() - self.read_s > max(OLD_LIVE_S if self.scope.live else OLD_S, _PATIENCE * took_s)


class Shelf:
    """What was opened last. Safe to share between threads; of several that ask for one scope, one reads it."""

    def __init__(self, views: Views, most_bytes: int) -> None:
        """Keep up to `most_bytes` of bars in all, the ones looked at last; a single scope may take all of it."""
        self._views, self._most = views, most_bytes
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._newest: dict[Key, Opened] = {}
        self._lock = threading.Lock()

    def open(self, query: Mapping[str, str], anew: bool = False) -> Opened:
        """Return the scope that an address asks for: the reading of it that `version` names, else the newest.

        `anew` reads it again where that is old.

        Raises what `timeline_scope.find` raises, and StoreError where that reading is gone and its bounds have changed.
        """
        key = tuple(query.get(each, "") for each in ("request", "recording", "from_ns", "to_ns"))
        version = query.get("version", "")
        with self._lock:
            found = self._opened.get(version)
            if found is None or found.key != key:
                found = self._newest.get(key)
            if found is not None:
                self._opened.move_to_end(found.version)
        if found is None or (anew and found.old):
            fresh = Opened(key, timeline_scope.find(self._views, query), time.monotonic())
            with self._lock:
                if self._newest.get(key) is found:  # Else somebody was faster.
                    self._newest[key] = self._opened[fresh.version] = fresh
                found = self._newest[key]
                self._forget()
        if version and version.rpartition(".")[0] != found.version.rpartition(".")[0]:
            raise StoreError("timeline: it has gone on since the page was loaded; load the page again")
        return found

    def _forget(self) -> None:
        while len(self._opened) > _MOST_SCOPES:
            _, oldest = self._opened.popitem(last=False)
            if self._newest.get(oldest.key) is oldest:
                del self._newest[oldest.key]

    def reading(self, opened: Opened) -> Reading:
        """Return the bars of a scope as they are read, beginning where nobody has yet."""
        with opened.lock:
            if opened.reading is None or opened.reading.failed:
                opened.reading = Reading(self._views, opened.scope, self._most)
                opened.reading.start(lambda: self._make_room(opened))
            return opened.reading

    def bars(self, opened: Opened) -> ScopeBars:
        """Return the bars of a scope, all of them."""
        return self.reading(opened).bars()

    def path(self, opened: Opened) -> Path:
        """Return the critical path of a scope, working it out where nobody has yet."""
        bars = self.bars(opened)
        with opened.lock:
            if opened.path is None:
                opened.path = timeline_path.path(bars, opened.scope.to_ns - opened.scope.from_ns)
            return opened.path

    def _make_room(self, newest: Opened) -> None:
        """Let go of the bars that were looked at longest ago; their scopes stay, and read them again when asked."""
        with self._lock:
            readings = [(each, each.reading) for each in self._opened.values()]
            held = [
                (each, reading.bars().nbytes)
                for each, reading in readings
                if reading and reading.done and not reading.failed
            ]
            size = sum(nbytes for _, nbytes in held)
            for each, nbytes in held:
                if size <= self._most:
                    return
                if each is not newest:
                    size -= nbytes
                    each.reading = None
