"""What came and what it marks, put together: many small writes are one piece of time."""

from __future__ import annotations

import numpy as np

_FAR = 600
"""Stretches without a mark between two that are looked at apart."""
_GAP_NS = 1_000_000_000


def near(numbers: set[int]) -> list[tuple[int, int]]:
    """Return the first and last of numbers that lie near each other: a clock gone wrong must not have all days read."""
    ordered = np.sort(np.fromiter(numbers, np.int64, len(numbers)))
    cuts = np.flatnonzero(np.diff(ordered) > _FAR) + 1
    return [(int(part[0]), int(part[-1])) for part in np.split(ordered, cuts) if len(part)]


def together(came: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Return (table, least, greatest time) of what came, those together that lie within a second."""
    found: list[tuple[str, int, int]] = []
    for table, low, high in sorted(came):
        if found and found[-1][0] == table and low <= found[-1][2] + _GAP_NS:
            found[-1] = (table, found[-1][1], max(found[-1][2], high))
        else:
            found.append((table, low, high))
    return found
