"""The moment as of which rules are evaluated, where the correlator's own wall clock may step.

Rows carry node time, which never steps. A correlator whose wall clock is put an hour ahead would take every collector for
silent, and one whose clock is put back would see again what was resolved: alerts would flap. So a step is not followed on
the clock's word: the time that went on without it, by CLOCK_MONOTONIC, and the stepped one are held against the newest rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from correlator.alerting.alerts import Query

log = logging.getLogger(__name__)

_STEP_NS = 1_000_000_000
"""Less is NTP's slewing, which is followed."""
_LOOK_NS = 5_000_000_000
_NEWEST_SQL = """
SELECT MEDIAN(newest)::BIGINT AS newest_ns
FROM (SELECT node, MAX(time_ns) AS newest FROM clock_pair WHERE time_ns > $since_ns GROUP BY node)
"""
"""Collectors send their clocks each second. The median: a node whose own time is wrong decides nothing."""
_SINCE_NS = 3_600_000_000_000


class EventTime:
    """Wall time, but for steps that the rows do not confirm."""

    def __init__(self, query: Query) -> None:
        """Begin with the wall clock as it is; look for the newest rows by `query`."""
        self._query = query
        self._ahead_ns = time.time_ns() - time.monotonic_ns()
        self._next_look_ns = 0
        self.refused_ns = 0
        """How far the wall clock is ahead of what is taken for the time; 0 where it is believed."""

    def now_ns(self) -> int:
        """Return the time, in ns since 1970. Raises StoreError where the rows cannot be asked after a step."""
        wall, monotonic = time.time_ns(), time.monotonic_ns()
        kept = monotonic + self._ahead_ns
        if abs(wall - kept) < _STEP_NS or self._confirmed(wall, kept, monotonic):
            if self.refused_ns:
                log.info("alerts: the wall clock is believed again")
            self._ahead_ns, self.refused_ns = wall - monotonic, 0
            return wall
        if not self.refused_ns:
            log.warning(
                "alerts: the wall clock stepped by %.0f s, the rows did not: they are believed", (wall - kept) / 1e9
            )
        self.refused_ns = wall - kept
        return kept

    def _confirmed(self, wall: int, kept: int, monotonic: int) -> bool:
        """Say whether the newest rows are nearer to the wall clock; where there are none, it is believed."""
        if self.refused_ns and monotonic < self._next_look_ns:
            return False
        self._next_look_ns = monotonic + _LOOK_NS
        bound: Mapping[str, object] = {"since_ns": min(wall, kept) - _SINCE_NS}
        newest = self._query(_NEWEST_SQL, bound)["newest_ns"][0].as_py()
        return newest is None or abs(newest - wall) <= abs(newest - kept)
