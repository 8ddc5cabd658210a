"""Which detail is asked of the collectors, and which windows they should keep: the one thing that flows back to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from warpline.errors import StoreError

_LONGEST_S = 3600.0


class Wanted:
    """What is asked for now. Each wish ends by itself, so that a closed browser leaves no collector at full detail."""

    def __init__(self) -> None:
        """Ask for nothing."""
        self._wishes: list[tuple[float, str, Mapping[str, int], list[tuple[int, int]]]] = []
        self._lock = threading.Lock()

    def wish(self, body: Any) -> None:
        """Add a wish: {"node": "" for all, "detail": {source or "*": level}, "windows": [[from_ns, to_ns]], "seconds": n}.

        Raises StoreError where it is not of this form.
        """
        try:
            detail = {str(name): int(level) for name, level in dict(body.get("detail") or {}).items()}
            windows = [(int(low), int(high)) for low, high in body.get("windows") or ()]
            seconds = min(float(body.get("seconds", 60)), _LONGEST_S)
            node = str(body.get("node", ""))
        except (AttributeError, TypeError, ValueError) as error:
            raise StoreError(f"detail: {error}; give node, detail, windows and seconds") from None
        if any(not 0 <= level <= 3 for level in detail.values()):
            raise StoreError(f"detail: levels are {detail}; give 0 (off) to 3 (all)")
        with self._lock:
            self._wishes.append((time.monotonic() + seconds, node, detail, windows))

    def of(self, node: str) -> dict[str, Any]:
        """Return what is wanted of `node`: the highest level asked for by source, and all windows."""
        with self._lock:
            self._wishes = [wish for wish in self._wishes if wish[0] > time.monotonic()]
            mine = [wish for wish in self._wishes if wish[1] in ("", node)]
        detail: dict[str, int] = {}
        for _, _, levels, _ in mine:
            for source, level in levels.items():
                detail[source] = max(level, detail.get(source, 0))
        return {"detail": detail, "windows": [list(window) for _, _, _, windows in mine for window in windows]}
