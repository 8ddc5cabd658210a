"""A small state that outlives the correlator: one JSON file in the state directory, written whole at every change."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Remembered:
    """One JSON list on disk. What cannot be written or read is said, and goes on without."""

    def __init__(self, path: Path) -> None:
        """Keep the value at `path`; nothing is read or written yet."""
        self._path = path

    def read(self) -> list[Any]:
        """Return what was written last; an empty list where there is nothing, or nothing that can be read."""
        try:
            found = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            log.warning("%s: %s; what was remembered there is forgotten", self._path, error)
            return []
        return found if isinstance(found, list) else []

    def write(self, value: list[Any]) -> None:
        """Put `value` in the place of what was there; a kill meanwhile leaves the one or the other."""
        part = self._path.with_name(self._path.name + ".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(value), encoding="utf-8")
            os.replace(part, self._path)
        except OSError as error:
            log.warning("%s: %s; a restart will not know of it", self._path, error)


def unix_s(monotonic_s: float) -> float:
    """Return a moment of this process' monotonic clock as Unix time, which the next process understands too."""
    return time.time() + monotonic_s - time.monotonic()


def monotonic_s(unix: float, longest_s: float) -> float:
    """Return a moment that `unix_s` told as this process' monotonic clock has it, `longest_s` ahead at most.

    The bound is for wall clocks that were put back in between: nothing may be asked for longer than it was meant.
    """
    return time.monotonic() + min(unix - time.time(), longest_s)
