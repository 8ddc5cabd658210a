"""What a person wants to know of a recording first: how busy the GPUs were, with what, and what is missing."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from warpline import schema
from warpline.batch import Batch

Int64 = NDArray[np.int64]
RECORDING = schema.table("recording")
_TOP = 10
_WORK = ("kernel", "memcpy", "memset", "graph")


@dataclass
class Summary:
    """Watches batches as they leave, adds up, and makes the `recording` row that completes the import."""

    recording_uid: str
    name: str
    form: str
    rows: Counter[str] = field(default_factory=Counter)
    not_kept: Counter[str] = field(default_factory=Counter)
    not_understood: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    """Environment variables and secrets that stayed out."""
    notes: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    ranks: set[int] = field(default_factory=set)
    start_ns: int | None = None
    end_ns: int | None = None
    _intervals: dict[tuple[str, str], list[tuple[Int64, Int64]]] = field(default_factory=lambda: defaultdict(list))
    _kernels: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def see(self, batch: Batch) -> Batch:
        """Add up one batch and return it."""
        self.rows[batch.table.name] += batch.rows.num_rows
        if batch.table.name == "gpu_kernel":
            self._see_executions(batch.rows)
        return batch

    def span(self, span: tuple[int, int] | None) -> None:
        """Widen the recording to `span` (node time)."""
        if span is not None:
            self.start_ns = span[0] if self.start_ns is None else min(self.start_ns, span[0])
            self.end_ns = span[1] if self.end_ns is None else max(self.end_ns, span[1])

    def _see_executions(self, rows: pa.RecordBatch) -> None:
        usable = pc.and_(pc.is_null(rows["validity"]), pc.is_in(rows["kind"].cast(pa.string()), pa.array(_WORK)))
        rows = rows.filter(usable)
        if not rows.num_rows:
            return
        start, end = rows["start_ns"].to_numpy(), rows["end_ns"].to_numpy()
        ranks = rows["rank"].fill_null(-1).to_numpy(zero_copy_only=False)
        classes = rows["kernel_class"].cast(pa.string()).fill_null("")
        parts = _parts(rows["kind"].cast(pa.string()), classes)
        for device in pc.unique(rows["gpu_uuid"].cast(pa.string())).to_pylist():
            here = pc.equal(rows["gpu_uuid"].cast(pa.string()), device).to_numpy(zero_copy_only=False)
            for rank in np.unique(ranks[here]).tolist():
                where = here & (ranks == rank)
                key = f"GPU {device}" if rank < 0 else f"rank {rank}, GPU {device}"
                for part, mask in parts.items():
                    self._intervals[key, part].append((start[where & mask], end[where & mask]))
        self._see_names(rows["name"], classes, end - start)

    def _see_names(self, names: pa.DictionaryArray, classes: pa.Array, length: Int64) -> None:
        totals = pa.table({"name": names.cast(pa.string()), "class": classes, "ns": length})
        for row in totals.group_by(["name", "class"]).aggregate([("ns", "sum"), ("ns", "count")]).to_pylist():
            total = self._kernels[row["name"], row["class"]]
            total[0] += row["ns_sum"]
            total[1] += row["ns_count"]

    def found(self) -> dict[str, Any]:
        """Return the summary in plain values; times in ns."""
        by_class: Counter[str] = Counter()
        for (_, kind), (total, _) in self._kernels.items():
            by_class[kind or "other"] += total
        top = sorted(self._kernels.items(), key=lambda each: -each[1][0])[:_TOP]
        return {
            "rows": dict(self.rows),
            "kernel_ns": sum(total for total, _ in self._kernels.values()),
            "span_ns": (self.end_ns or 0) - (self.start_ns or 0),
            "gpus": {key: self._gpu(key) for key in sorted({key for key, _ in self._intervals})},
            "class_ns": dict(by_class.most_common()),
            "top": [{"name": n, "class": k, "total_ns": t, "count": c} for (n, k), (t, c) in top],
            "not_kept": {k: v for k, v in self.not_kept.items() if v},
            "not_understood": {k: v for k, v in self.not_understood.items() if v},
            "removed": {k: v for k, v in self.removed.items() if v},
            "notes": self.notes,
            "about": self.about,
        }

    def _gpu(self, key: str) -> dict[str, Any]:
        compute, talk = self._intervals[key, "compute"], self._intervals[key, "communication"]
        everything = compute + talk + self._intervals[key, "memory"]
        first = min(int(start.min()) for start, _ in everything if len(start))
        last = max(int(end.max()) for _, end in everything if len(end))
        return {
            "busy_ns": _union(everything),
            "span_ns": last - first,
            "communication_ns": _union(talk),
            "overlapped_ns": _union(compute) + _union(talk) - _union(compute + talk),
            "executions": sum(len(start) for start, _ in everything),
        }

    def row(self, clock: str, clock_error_ns: int | None) -> Batch:
        """Return the `recording` row: the last of an import, which makes the others visible."""
        now = {
            "start_ns": self.start_ns or 0,
            "end_ns": self.end_ns,
            "recording_uid": self.recording_uid,
            "name": self.name,
            "format": self.form,
            "clock": clock,
            "clock_error_ns": clock_error_ns,
            "rows": sum(self.rows.values()),
            "ranks": pa.array([sorted(self.ranks)], pa.list_(pa.int64())),
            "simulated": False,
            "summary": json.dumps(self.found()),
        }
        return Batch(RECORDING, RECORDING.batch(now, rows=1))


def _parts(kinds: pa.Array, classes: pa.Array) -> dict[str, NDArray[np.bool_]]:
    """Return which executions compute, communicate, or only move memory."""
    moves = pc.is_in(kinds, pa.array(["memcpy", "memset"])).to_numpy(zero_copy_only=False)
    talks = pc.equal(classes, "communication").to_numpy(zero_copy_only=False)
    return {"compute": ~moves & ~talks, "communication": talks & ~moves, "memory": moves}


def _union(intervals: list[tuple[Int64, Int64]]) -> int:
    """Return the length of the union of half-open intervals, in ns."""
    if not intervals:
        return 0
    start = np.concatenate([each for each, _ in intervals])
    end = np.concatenate([each for _, each in intervals])
    if not len(start):
        return 0
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum(end[order], start[order])
    reach = np.maximum.accumulate(end)
    before = np.concatenate([[start[0]], reach[:-1]])
    return int(np.maximum(0, end - np.maximum(start, before)).sum())
