"""Which detail is asked of the collectors, and which windows they should keep: the one thing that flows back to them.

A restart goes on asking for what was asked: a collector may be away while the correlator is, and windows are asked for once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from correlator.remembered import Remembered, monotonic_s, unix_s
from warpline.errors import StoreError

log = logging.getLogger(__name__)

_LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class _Wish:
    """One wish and when it ends (s, monotonic); an empty node means all."""

    until_s: float
    node: str
    detail: Mapping[str, int]
    windows: list[tuple[int, int]]


class Wanted:
    """What is asked for now. Each wish ends by itself, so that a closed browser leaves no collector at full detail."""

    def __init__(self, remembered: Remembered | None = None) -> None:
        """Ask for what is `remembered`, or for nothing."""
        self._remembered = remembered
        self._lock = threading.Lock()
        self._wishes: list[_Wish] = []
        for each in remembered.read() if remembered else ():
            try:
                self._add(each, monotonic_s(float(each["until_s"]), _LONGEST_S))
            except (KeyError, StoreError, TypeError, ValueError) as error:
                log.warning("detail: a wish from before cannot be read: %s", error)
        self._forget()

    def wish(self, body: Any) -> None:
        """Add a wish: {"node": "" for all, "detail": {source or "*": level}, "windows": [[from_ns, to_ns]], "seconds": n}.

        Raises StoreError where it is not of this form.
        """
        try:
            seconds = min(float(body.get("seconds", 60)), _LONGEST_S)
        except (AttributeError, TypeError, ValueError) as error:
            raise StoreError(f"detail: {error}; give node, detail, windows and seconds") from None
        with self._lock:
            self._add(body, time.monotonic() + seconds)
            self._forget()
            if self._remembered is not None:
                self._remembered.write([asdict(each) | {"until_s": unix_s(each.until_s)} for each in self._wishes])

    def _add(self, body: Any, until_s: float) -> None:
        try:
            detail = {str(name): int(level) for name, level in dict(body.get("detail") or {}).items()}
            windows = [(int(low), int(high)) for low, high in body.get("windows") or ()]
            node = str(body.get("node", ""))
        except (AttributeError, TypeError, ValueError) as error:
            raise StoreError(f"detail: {error}; give node, detail, windows and seconds") from None
        if any(not 0 <= level <= 3 for level in detail.values()):
            raise StoreError(f"detail: levels are {detail}; give 0 (off) to 3 (all)")
        self._wishes.append(_Wish(until_s, node, detail, windows))

    def _forget(self) -> None:
        now_s = time.monotonic()
        self._wishes = [wish for wish in self._wishes if wish.until_s > now_s]

    def of(self, node: str) -> dict[str, Any]:
        """Return what is wanted of `node`: the highest level asked for by source, and all windows."""
        with self._lock:
            self._forget()
            mine = [wish for wish in self._wishes if wish.node in ("", node)]
        detail: dict[str, int] = {}
        for wish in mine:
            for source, level in wish.detail.items():
                detail[source] = max(level, detail.get(source, 0))
        return {"detail": detail, "windows": [list(window) for wish in mine for window in wish.windows]}
