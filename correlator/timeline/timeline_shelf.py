"""Scopes and their bars that were looked at lately, kept within a bound of memory and as fresh as they need to be."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from correlator.timeline import timeline_bars, timeline_path, timeline_scope
from correlator.timeline.timeline_bars import ScopeBars
from correlator.timeline.timeline_path import Path
from correlator.timeline.timeline_scope import Scope, Views

OLD_S, OLD_LIVE_S = 60.0, 2.0
"""Age at which a page that opens reads a scope anew; the shorter one where rows may still come."""

_PATIENCE = 20
"""What took long to read may be older: this many times as old as it took."""

_MOST_SCOPES = 256


@dataclass(eq=False)
class Opened:
    """One scope that is being looked at."""

    scope: Scope
    read_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    bars: ScopeBars | None = None
    tracks: bytes | None = None
    path: Path | None = None
    took_s: float = 0.0

    @property
    def old(self) -> bool:
        """Whether a page that opens should read it anew."""
        return time.monotonic() - self.read_s > max(OLD_LIVE_S if self.scope.live else OLD_S, _PATIENCE * self.took_s)


class Shelf:
    """What was opened last. Safe to share between threads; of several that ask for one scope, one reads it."""

    def __init__(self, views: Views, most_bytes: int) -> None:
        """Keep up to `most_bytes` of bars in all, the ones looked at last; a single scope may take all of it."""
        self._views, self._most = views, most_bytes
        self._opened: OrderedDict[tuple[str, ...], Opened] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, query: Mapping[str, str], anew: bool = False) -> Opened:
        """Return the scope that an address asks for; `anew` reads it again where it is old.

        Raises what `timeline_scope.find` raises.
        """
        key = tuple(query.get(each, "") for each in ("request", "recording", "from_ns", "to_ns"))
        with self._lock:
            found = self._opened.get(key)
            if found is not None:
                self._opened.move_to_end(key)
        if found is None or (anew and found.old):
            fresh = Opened(timeline_scope.find(self._views, query), time.monotonic())
            with self._lock:
                if self._opened.get(key) is found:  # Else somebody was faster.
                    self._opened[key] = fresh
                found = self._opened[key]
                while len(self._opened) > _MOST_SCOPES:
                    self._opened.popitem(last=False)
        return found

    def bars(self, opened: Opened) -> ScopeBars:
        """Return the bars of a scope, reading them where nobody has yet."""
        with opened.lock:
            if opened.bars is None:
                began = time.monotonic()
                opened.bars = timeline_bars.load(self._views, opened.scope, self._most)
                opened.took_s = time.monotonic() - began
                self._make_room(opened)
            return opened.bars

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
            held = [each for each in self._opened.values() if each.bars is not None and each is not newest]
            size = sum(each.bars.nbytes for each in (*held, newest) if each.bars is not None)
            for each in held:
                if size <= self._most or each.bars is None:
                    return
                size -= each.bars.nbytes
                each.bars = None
