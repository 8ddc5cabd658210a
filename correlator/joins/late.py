"""What rows change that speak of more than their own moment: a connection of all exchanges on it, a process of all that it
and its kin run, a reading of the wall clock of all until the next one, a scheduler's span of all that lies in it, a loss of
all that was seen until it was counted.

Such rows mostly come before what they speak of, or say again what is known: then they mark nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from correlator.joins.executions import Query, load
from correlator.joins.ledger import column

_S = 1_000_000_000
_KEPT = 500_000
"""Things that are remembered as known; what is forgotten only costs that it is looked up again."""
Marks = Iterator[tuple[str, int, int]]
"""(stage, first, last time) of what is to be made again."""


class Late:
    """What is known of connections and processes. Not safe between threads."""

    def __init__(self, query: Query) -> None:
        """Ask the store with `query`."""
        self._query = query
        self._known: dict[str, set[int]] = {"connection": set(), "process": set()}

    def came(self, table: str, low_ns: int, high_ns: int) -> Marks:
        """Yield what rows of `table` with times in [low_ns, high_ns], which came now, may change beside their own moment."""
        if table in self._known:
            yield from self._of_things(table, low_ns, high_ns)
        elif table in ("span", "clock_pair"):
            bound = {"since_ns": low_ns, "until_ns": high_ns}
            for low, high in self._pairs("came_" + table, bound):
                yield "wire", low, high
        elif table == "loss":
            for low, high in self._pairs("came_loss", {"since_ns": low_ns, "until_ns": high_ns}):
                yield "identity", low, high

    def _of_things(self, table: str, low_ns: int, high_ns: int) -> Marks:
        bound = {"since_ns": low_ns, "until_ns": high_ns}
        said = np.unique(column(self._query(load("came_" + table), bound), "said")).tolist()
        known = self._known[table]
        new = [each for each in said if each not in known]
        if len(known) > _KEPT:
            known.clear()
        known.update(new)
        if not new:
            return
        for low, high in self._pairs(table + "_of", {**bound, "new": new}):
            if table == "connection":
                yield "identity", low - 60 * _S, high + 60 * _S
                yield "clock", low - 90 * _S, high + 30 * _S
            else:
                yield "gpu", low, high
                yield "wire", low - 30 * _S, high + 120 * _S

    def _pairs(self, name: str, bound: Mapping[str, object]) -> Iterator[tuple[int, int]]:
        """Yield the first and last time of each stretch that a query names."""
        rows = self._query(load(name), bound)
        yield from zip(column(rows, "first_ns").tolist(), column(rows, "last_ns").tolist(), strict=True)
