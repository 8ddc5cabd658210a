"""Which single events leave the Linux kernel beside their sums: all at detail 3, else those inside wanted windows.

A window is a span of node time that somebody asks collectors to keep whole, such as one request's or an alert's next half
minute (`Context.windows`). Outside of windows, and at the least detail, events are summed up only; where the flight recorder
records (`Context.recording`), those outside go to it as fine batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.bpf.ring import Records
from collectors.identity.batches import process_uids
from warpline.batch import Batch
from warpline.schema import Table
from warpline.source import Context

LEAST, ALL = 1, 3
_MARGIN_NS = 300_000_000
"""Switched on so much earlier, and off later: programs are told with each poll, 0.1 s apart, and an event is told of when it
ends. What lies outside of the window is left out of the rows."""

Times = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Columns = Callable[[Records, Times, Times], Mapping[str, Any]]


class Singles:
    """What one source is asked for now; `refresh` is called once a poll, behind the reading of what it decided before."""

    def __init__(self, context: Context) -> None:
        """Ask for nothing yet."""
        self._context = context
        self._all = False
        self._windows: Sequence[tuple[int, int]] = ()
        self.on = False
        """Whether programs should tell of single events."""
        self._recording = False

    def refresh(self) -> bool:
        """Look what is asked for now; return whether `on` changed."""
        detail, before, now = self._context.detail(), self.on, self._context.clock.now_ns()
        self._all = detail >= ALL
        wanted = self._context.windows() if LEAST < detail < ALL else ()
        self._windows = [each for each in wanted if each[0] - _MARGIN_NS <= now < each[1] + _MARGIN_NS]
        self._recording = LEAST < detail < ALL and self._context.recording()
        self.on = self._all or bool(self._windows) or self._recording
        return self.on != before

    def batches(self, table: Table, events: Records, columns: Columns, long_ns: int | None = None) -> list[Batch]:
        """Return the rows of the events that were asked for and, where it records, of all others for the flight recorder.

        Those that took `long_ns` or more are asked for always, where it is given. `columns` gives what stands beside time,
        node, process and thread, of some events and their start and end in node time.
        """
        clock = self._context.clock
        start, end = (clock.from_monotonic(events[name].astype(np.int64)) for name in ("start_ns", "end_ns"))
        asked_for = self.wanted(start, end)
        if long_ns is not None:
            asked_for |= end - start >= long_ns
        found = [Batch(table, self._rows(table, events, start, end, asked_for, columns))] if asked_for.any() else []
        if self._recording and not asked_for.all():
            found.append(Batch(table, self._rows(table, events, start, end, ~asked_for, columns), fine=True))
        return found

    def _rows(
        self, table: Table, events: Records, start: Times, end: Times, some: Flags, columns: Columns
    ) -> pa.RecordBatch:
        x, start, end, node = events[some], start[some], end[some], self._context.node
        shared = {
            "start_ns": start,
            "end_ns": end,
            "node": node,
            "process_uid": process_uids(node, x["process_start_ns"], x["process"]),
            "thread_id": x["thread"].astype(np.int64),
        }
        return table.batch({**shared, **columns(x, start, end)})

    def wanted(self, start_ns: Times, end_ns: Times) -> Flags:
        """Return which events, from `start_ns` to `end_ns` of node time, were asked for at the last look."""
        if self._all:
            return np.ones(len(start_ns), bool)
        inside = np.zeros(len(start_ns), bool)
        for low, high in self._windows:
            inside |= (start_ns < high) & (end_ns > low)
        return inside
