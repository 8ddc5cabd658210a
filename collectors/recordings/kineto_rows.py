"""Events of a Kineto trace → raw rows, a piece at a time: which category is what, and where each column stands.

Categories and argument names are those of libkineto's JSON output from 2021 on (capitalised at first) and of its AMD and
MTIA back ends. Columns are picked out of parsed events by comprehension and become Arrow at once.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from collectors.recordings import raw, times
from collectors.recordings.assemble import Assembly, details

CALLS = {"cuda_runtime", "cuda_driver", "Runtime", "mtia_runtime", "xpu_runtime", "hpu_runtime", "privateuse1_runtime"}
EXECUTIONS = {
    "kernel": "kernel",
    "Kernel": "kernel",
    "gpu_memcpy": "memcpy",
    "Memcpy": "memcpy",
    "gpu_memset": "memset",
    "Memset": "memset",
}
RANGES = {
    "cpu_op": "cpu_op",
    "Operator": "cpu_op",
    "user_annotation": "user_annotation",
    "gpu_user_annotation": "gpu_user_annotation",
    "python_function": "python_function",
    "overhead": "overhead",
    "cuda_sync": "cuda_sync",
    "cuda_event": "cuda_event",
    "cuda_profiler_range": "cuda_profiler_range",
    "mtia_insight": "mtia_insight",
}
_ON_DEVICE = {"gpu_user_annotation", "cuda_sync", "cuda_event", "cuda_profiler_range"}
_MTIA = {"pe_exe": "kernel", "dma_request": "memcpy"}
_COMMUNICATION = {
    "Collective name": "collective",
    "In msg nelems": "in_elements",
    "Out msg nelems": "out_elements",
    "dtype": "dtype",
    "Group size": "group_size",
    "Process Group Name": "group",
    "Process Group Description": "group_description",
    "Process Group Ranks": "ranks",
    "In split size": "in_split",
    "Out split size": "out_split",
    "Src Rank": "source_rank",
    "Dst Rank": "destination_rank",
}
_NOT_KEPT = {"s": "flow arrows (correlation ids say the same)", "t": "flow arrows (correlation ids say the same)"} | {
    "f": "flow arrows (correlation ids say the same)",
    "M": "names of processes and threads",
    "i": "instants (memory allocations, iteration marks)",
    "I": "instants (memory allocations, iteration marks)",
    "R": "instants (memory allocations, iteration marks)",
    "C": "counters",
}
_NO_ARGS: dict[str, Any] = {}
_DIGITS = re.compile(r"-?\d+")


@dataclass
class KinetoRows:
    """Takes events of one trace; leaves raw rows in `into` and counts what it did not understand in `lost`."""

    into: Assembly
    lost: Counter[str] = field(default_factory=Counter)
    error_ns: int = times.MICROSECOND
    """How far starts may be off."""

    def take(self, events: list[Any], piece: bytes) -> None:
        """Add the rows of one piece of the trace; `piece` is the text that it was parsed from."""
        groups = self._sort(events, piece)
        for category, found in groups.items():
            start, end, timed = self._interval(category, *found)
            rows = _Rows(found[0], start, end, timed)
            if category in CALLS:
                self._calls(rows)
            elif category in EXECUTIONS:
                self._executions(rows, EXECUTIONS[category])
            elif category == "mtia_ccp_events":
                self._mtia(rows)
            elif category == "Trace":
                self.into.counts["the profiler's own spans"] += len(rows.events)
            else:
                self._ranges(rows, category)

    def _sort(self, events: list[Any], piece: bytes) -> dict[str, tuple[list[Any], np.ndarray, np.ndarray]]:
        """Group complete events by category, with the start of each in ns and whether that is a time."""
        if not all(type(e) is dict for e in events):
            self.lost["is not an event"] += sum(type(e) is not dict for e in events)
            events = [e for e in events if type(e) is dict]
            piece = b""
        phases = [e.get("ph") for e in events]
        starts, valid = self._starts(events, piece)
        rows = defaultdict(list)
        for row, (phase, event) in enumerate(zip(phases, events, strict=True)):
            rows[str(event.get("cat") or "") if phase == "X" else phase].append(row)
        groups = {}
        for key, where in rows.items():
            if phases[where[0]] == "X":
                groups[key] = ([events[row] for row in where], starts[where], valid[where])
            elif key in _NOT_KEPT:
                self.into.counts[_NOT_KEPT[key]] += len(where)
            else:
                self.lost[f"event of phase {str(key)[:8]!r} is not known"] += len(where)
        return groups

    def _starts(self, events: list[Any], piece: bytes) -> tuple[np.ndarray, np.ndarray]:
        starts, valid, error = times.nanoseconds([e.get("ts") for e in events])
        if error == times.ROUNDED and (better := times.from_text(piece, starts)) is not None:
            starts, error = better, times.EXACT
        if error != times.MICROSECOND:  # A piece whose times happen to be whole says nothing of the others.
            self.error_ns = max(error, self.error_ns % times.MICROSECOND)
        return starts, valid

    def _interval(
        self, category: str, events: list[Any], start: np.ndarray, valid: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Return start and end of each in ns, and whether it has both; a negative duration ends where it begins."""
        length, has_length, _ = times.nanoseconds([e.get("dur", 0 if category == "overhead" else None) for e in events])
        timed = valid & has_length
        if category not in EXECUTIONS:
            self.lost["has no time"] += int((~timed).sum())
            self.lost["ends before it begins"] += int((length[timed] < 0).sum())
        return start, start + length, timed

    def _calls(self, found: _Rows) -> None:
        rows = found.only(found.timed & (found.end >= found.start))
        columns = {
            "start": rows.start,
            "end": rows.end,
            "pid": rows.integers("pid"),
            "thread": rows.integers("tid"),
            "correlation": rows.arguments("correlation"),
            "api": rows.texts("name", "?"),
            "stream": rows.arguments("stream", "stream_id"),
            "kernel": [a.get("kernel") if isinstance(a.get("kernel"), str) else None for a in rows.args],
            "graph": rows.arguments("graph id", "graph exec id"),
        }
        self.into.calls.append(raw.batch(raw.CALL, len(rows.events), columns))

    def _executions(self, rows: _Rows, kind: str) -> None:
        reversed_time = rows.timed & (rows.end < rows.start)
        validity = np.where(~rows.timed, "no_time", np.where(reversed_time, "reversed", "")).tolist()
        self.lost["execution without a time"] += int((~rows.timed).sum())
        self.lost["execution that ends before it begins"] += int(reversed_time.sum())
        device = rows.arguments("device").fill_null(-1).to_pylist()
        pids = rows.integers("pid").fill_null(-1).to_pylist() if -1 in device else device
        columns = {
            "start": rows.start,
            "end": np.maximum(rows.start, rows.end),
            "device": [str(d if d >= 0 else p) for d, p in zip(device, pids, strict=True)],
            "context": rows.arguments("context"),
            "stream": rows.streams(),
            "correlation": rows.arguments("correlation"),
            "graph": rows.arguments("graph id"),
            "graph_node": rows.arguments("graph node id"),
            "name": rows.texts("name", "?"),
            "kind": kind,
            "bytes": rows.arguments("bytes", "size"),
            "validity": [each or None for each in validity],
            "grid": [_triple(a.get("grid")) for a in rows.args],
            "block": [_triple(a.get("block")) for a in rows.args],
            "registers": rows.arguments("registers per thread"),
            "shared": rows.arguments("shared memory"),
            "communication": self._communication(rows),
        }
        self.into.executions.append(raw.batch(raw.EXECUTION, len(rows.events), columns))

    def _communication(self, rows: _Rows) -> list[str | None] | None:
        if not any("Collective name" in a for a in rows.args):
            return None
        told = [a if "Collective name" in a else _NO_ARGS for a in rows.args]
        return details({ours: [a.get(theirs) for a in told] for theirs, ours in _COMMUNICATION.items()}, len(told))

    def _mtia(self, rows: _Rows) -> None:
        names = np.array([str(e.get("name")) for e in rows.events], object)
        for name, kind in _MTIA.items():
            if (names == name).any():
                self._executions(rows.only(names == name), kind)
        rest = rows.only(~np.isin(names.astype(str), list(_MTIA)))
        if rest.events:
            self._ranges(rest, "mtia_ccp_events")

    def _ranges(self, found: _Rows, category: str) -> None:
        rows = found.only(found.timed & (found.end >= found.start))
        if category not in RANGES and category != "mtia_ccp_events":
            self.into.counts[f"category {category[:40]!r} kept as a range only"] += len(rows.events)
        on_device = category in _ON_DEVICE or category == "mtia_ccp_events"
        pid = rows.integers("pid")
        columns: dict[str, Any] = {
            "start": rows.start,
            "end": rows.end,
            "pid": None if on_device else pid,
            "thread": None if on_device else rows.integers("tid"),
            "kind": RANGES.get(category, category or "none"),
            "name": rows.texts("name", "?"),
            "stream": rows.streams() if on_device else None,
            "device": [None if p is None else str(p) for p in pid.to_pylist()] if on_device else None,
            "details": self._waits(rows) if category == "cuda_sync" else None,
        }
        self.into.ranges.append(raw.batch(raw.RANGE, len(rows.events), columns))

    def _waits(self, rows: _Rows) -> list[str | None]:
        told = {"correlation_id": "correlation", "wait_on_stream": "wait_on_stream"}
        told["wait_on_correlation_id"] = "wait_on_cuda_event_record_corr_id"
        return details({ours: [a.get(theirs) for a in rows.args] for ours, theirs in told.items()}, len(rows.events))


class _Rows:
    """Events of one category with their times, and their columns."""

    def __init__(self, events: list[Any], start: np.ndarray, end: np.ndarray, timed: np.ndarray) -> None:
        self.events, self.start, self.end, self.timed = events, start, end, timed
        self.args: list[dict[str, Any]] = [a if type(a := e.get("args")) is dict else _NO_ARGS for e in events]

    def only(self, mask: np.ndarray) -> _Rows:
        """Return the rows of `mask`."""
        if mask.all():
            return self
        return _Rows([self.events[i] for i in np.flatnonzero(mask)], self.start[mask], self.end[mask], self.timed[mask])

    def texts(self, key: str, missing: str) -> list[str]:
        """Return a text of the events themselves."""
        return [v if type(v := e.get(key)) is str else (missing if v is None else str(v)) for e in self.events]

    def integers(self, key: str) -> pa.Array:
        """Return a whole number of the events themselves; a text such as "stream 7" gives its first number."""
        return _integers([e.get(key) for e in self.events])

    def arguments(self, *keys: str) -> pa.Array:
        """Return a whole number of the arguments: the first of `keys` that is there."""
        if len(keys) == 1:
            return _integers([a.get(keys[0]) for a in self.args])
        return _integers([next((a[k] for k in keys if k in a), None) for a in self.args])

    def streams(self) -> pa.Array:
        """Return the CUDA stream: the argument, or the row that the event stands on."""
        told = self.arguments("stream")
        return (
            told
            if told.null_count == 0
            else pa.array(
                [
                    t if t is not None else w
                    for t, w in zip(told.to_pylist(), self.integers("tid").to_pylist(), strict=True)
                ],
                pa.int64(),
            )
        )


def _integers(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.int64())
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([_integer(value) for value in values], pa.int64())


def _integer(value: Any) -> int | None:
    number: int | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1 << 63:
        number = int(value)
    elif isinstance(value, str):
        if value[:2].lower() == "0x":
            try:
                number = int(value, 16)
            except ValueError:
                number = None
        elif found := _DIGITS.search(value):
            number = int(found[0])
    return number if number is not None and -(1 << 63) <= number < 1 << 63 else None


def _triple(value: Any) -> str | None:
    return ",".join(map(str, value[:3])) if type(value) is list and value else None
