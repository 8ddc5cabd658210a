"""Counters as what was added since somebody last had them (OTLP's delta temporality), for links that are thin or fail.

OpenTelemetry's SDK states deltas too, and forgets what an interval added when its request fails. Here the interval grows
until a request is answered: nothing that was added is lost, and a counter that stood still sends nothing. A request that was
taken, but whose answer was lost, is told again within the next: then that interval counts twice.
"""

from __future__ import annotations

from collections.abc import Hashable

Point = tuple[int, float]
"""Time (Unix ns) and value."""


class Deltas:
    """The last points of counters that somebody has, by series. One thread uses it."""

    def __init__(self) -> None:
        """Begin: nobody has anything."""
        self._had: dict[Hashable, Point] = {}
        self._offered: dict[Hashable, Point] = {}

    def since(self, series: Hashable, time_ns: int, value: float, began_ns: int | None = None) -> Point | None:
        """Return from when on how much was added; None for nothing.

        A series' first value says nothing unless it is known since when it counts from 0 (`began_ns`). One that is smaller
        than the last began anew from 0.
        """
        had = self._offered.get(series) or self._had.get(series)
        if had is None and began_ns is None:
            self._had[series] = time_ns, value
            return None
        start_ns, before = had or (began_ns or 0, 0.0)
        added = value - before if value >= before else value
        if not added or time_ns <= start_ns:
            return None
        self._offered[series] = time_ns, value
        return start_ns, added

    def settle(self, taken: bool) -> None:
        """Say whether what `since` returned from the last call of this on was taken; if not, it will be offered again."""
        if taken:
            self._had |= self._offered
        self._offered.clear()
