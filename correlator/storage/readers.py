"""Which reads are under way: a file that a view no longer names is deleted when nobody can still be reading it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from pathlib import Path

from correlator.storage import segments


class Readers:
    """Numbers reads as they begin, and holds files back until all reads that began before are done."""

    def __init__(self) -> None:
        """Begin with nobody reading."""
        self._numbers = itertools.count()
        self._reading: set[int] = set()
        self._waiting: list[tuple[int, Path]] = []
        self._lock = threading.Lock()

    def enter(self) -> int:
        """Begin a read; return its number."""
        with self._lock:
            number = next(self._numbers)
            self._reading.add(number)
            return number

    def leave(self, number: int) -> None:
        """End a read, and delete the files that waited for it."""
        with self._lock:
            self._reading.discard(number)
        self.sweep()

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete files once no read that has begun can need them."""
        with self._lock:
            number = next(self._numbers)
            self._waiting += [(number, path) for path in paths]
        self.sweep()

    def sweep(self) -> None:
        """Delete the files that nobody can need any more."""
        with self._lock:
            oldest = min(self._reading, default=None)
            free = [path for number, path in self._waiting if oldest is None or number < oldest]
            self._waiting = [(n, p) for n, p in self._waiting if oldest is not None and n >= oldest]
        segments.remove(free)
