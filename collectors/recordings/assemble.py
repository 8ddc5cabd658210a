"""Raw rows of one process or rank → batches of the tables, with what only the whole recording can tell.

That is: which call is the launch of a correlation id, which step a launch and its executions belong to, how deep a range
is nested, when it all began. A correlation id is unique within a process; a launch is never found by a time window.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from collectors.recordings import kernel_class, secrets, steps
from collectors.recordings.raw import CALL, EXECUTION, RANGE, Part, Spill
from warpline import schema
from warpline.batch import Batch

LAUNCH, GPU_KERNEL = schema.table("launch"), schema.table("gpu_kernel")
DETAIL, ANNOTATION = schema.table("gpu_kernel_detail"), schema.table("annotation")
ENGINE_STEP = schema.table("engine_step")
TABLES = (LAUNCH, GPU_KERNEL, DETAIL, ANNOTATION, ENGINE_STEP)

_ENQUEUES = r"(?i)launch|memcpy|memset|prefetch|^runFunction|^enqueue"
_DOES_NOT = r"(?i)LaunchHostFunc|Graph(Add|Exec|Kernel|Mem|Instantiate)|CallConfiguration|Attribute"
_MONTH_NS, _LAST = 30 * 86_400_000_000_000, (1 << 63) - 1
_ENOUGH = 100_000
MATCHED_TOGETHER = 4_000_000
"""Calls and executions that are matched at once: more go in parts by correlation id, for memory stays bounded then."""
_STEP_KINDS = ("user_annotation", "nvtx", "gpu_user_annotation")


@dataclass
class Assembly:
    """Collects raw rows, then gives batches. `counts` tells what was not kept, by reason, for the summary."""

    recording_uid: str
    node: str
    observed_by: str
    rank: int | None = None
    base_ns: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    secrets_removed: int = 0
    calls: Spill = field(default_factory=lambda: Spill(CALL))
    executions: Spill = field(default_factory=lambda: Spill(EXECUTION))
    ranges: Spill = field(default_factory=lambda: Spill(RANGE))
    steps: list[steps.Step] = field(default_factory=list)
    inside: tuple[int, int] = (0, 0)
    """Least and greatest time that is believed, before `base_ns` is added; rows without a time are put at the least."""
    lost: Counter[str] = field(default_factory=Counter)

    def close(self) -> None:
        """Drop the raw rows."""
        for spill in (self.calls, self.executions, self.ranges):
            spill.close()

    def span(self) -> tuple[int, int] | None:
        """Return when the first row began and the last ended, in node time; None where there are none.

        A row a month away from the middle one has no believable time: it would stretch the recording over the years.
        """
        times = [each for each in self._times() if len(each[0])]
        if not times:
            return None
        middle = float(np.median(np.concatenate([start for start, _ in times])))
        low, high, far = [], [], 0
        for start, end in self._times(1):
            near = (np.abs(start - middle) < _MONTH_NS) & (np.abs(end - middle) < _MONTH_NS)
            far += int((~near).sum())
            low.append(int(start[near].min(initial=_LAST)))
            high.append(int(end[near].max(initial=-_LAST)))
        self.lost["time is far from all others"] = far
        self.inside = min(low), max(high)
        return self.inside[0] + self.base_ns, self.inside[1] + self.base_ns

    def _times(self, every: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (starts, ends) of the rows that have times, a batch at a time: every row, or enough of them for a median."""
        for spill in (self.calls, self.executions, self.ranges):
            step = every or max(1, spill.rows // _ENOUGH)
            for raw in spill.read(["start", "end"]):
                start, end = (raw[each].fill_null(-1).to_numpy(zero_copy_only=False) for each in ("start", "end"))
                timed = end > start if spill is self.executions else np.ones(len(start), bool)
                yield start[timed][::step], end[timed][::step]

    def _near(self, raw: pa.RecordBatch) -> np.ndarray:
        mask: np.ndarray = (raw["start"].to_numpy() >= self.inside[0]) & (raw["end"].to_numpy() <= self.inside[1])
        return mask

    def batches(self) -> Iterator[Batch]:
        """Yield all rows. `span` must have been called, `base_ns` and `rank` be set."""
        self._find_steps()
        only = self._only_process()
        parts = max(1, -(-(self.calls.rows + self.executions.rows) // MATCHED_TOGETHER))
        for index in range(parts):
            yield from self._matched((index, parts), only)
        yield from self._annotations()
        yield from self._engine_steps()

    def _matched(self, part: Part, only: int | None) -> Iterator[Batch]:
        """Yield the calls and executions of one part of the correlation ids, each with the other's."""
        names = ("pid", "thread", "correlation", "start", "end")
        pid, thread, correlation, start, end = self.calls.numbers(*names, part=part)
        ordinal = steps.ordinals(self.steps, pid, thread, start)
        (gpu_correlation,) = self.executions.numbers("correlation", part=part)
        first = _first_of_correlation(pid, correlation, start, end)
        worked = np.isin(correlation, np.unique(gpu_correlation[gpu_correlation > 0]))
        owner = _Owners(pid[first], correlation[first], ordinal[first])
        yield from self._launches(part, first, worked, ordinal)
        yield from self._executions(part, owner, only)

    def _only_process(self) -> int | None:
        """Return the one process that the recording knows, or None where it knows several or none."""
        for spill in (self.calls, self.ranges):
            if spill.rows:
                pids = [
                    np.unique(raw["pid"].fill_null(-1).to_numpy(zero_copy_only=False)) for raw in spill.read(["pid"])
                ]
                known = np.unique(np.concatenate(pids))
                known = known[known >= 0]
                return int(known[0]) if len(known) == 1 else None
        return None

    def _common(self, rows: int) -> dict[str, Any]:
        return {"node": self.node, "recording_uid": self.recording_uid, "rank": self.rank}

    def process_uid(self, pid: pa.Array) -> pa.DictionaryArray:
        """Return process_uid of each pid: <node>:0:<pid>, since a recording does not tell when a process began."""
        encoded = pid.dictionary_encode()
        texts = [
            None if each is None or each < 0 else f"{self.node}:0:{each}" for each in encoded.dictionary.to_pylist()
        ]
        return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(texts, pa.string()))

    def _names(self, names: pa.DictionaryArray) -> pa.DictionaryArray:
        clean, found = secrets.redact_all(names.dictionary.to_pylist())
        self.secrets_removed += found
        return pa.DictionaryArray.from_arrays(names.indices, pa.array(clean, pa.string())) if found else names

    def _launches(self, part: Part, first: np.ndarray, worked: np.ndarray, ordinal: np.ndarray) -> Iterator[Batch]:
        at = 0
        for raw in self.calls.read(part=part):
            here = slice(at, at + raw.num_rows)
            at += raw.num_rows
            enqueues = pc.and_(_match(raw["api"], _ENQUEUES), pc.invert(_match(raw["api"], _DOES_NOT)))
            near = self._near(raw)
            asked = enqueues.to_numpy(zero_copy_only=False) | worked[here]
            launches = asked & first[here] & near
            yield from self._launch_batch(raw.filter(pa.array(launches)), ordinal[here][launches])
            rest = raw.filter(pa.array(~launches & near))
            if rest.num_rows:
                yield self._annotation_batch(rest, "cuda_api", self._names(rest["api"]), None)

    def _launch_batch(self, raw: pa.RecordBatch, ordinal: np.ndarray) -> Iterator[Batch]:
        if raw.num_rows:
            columns = {
                "start_ns": pc.add(raw["start"], self.base_ns),
                "end_ns": pc.add(raw["end"], self.base_ns),
                "process_uid": self.process_uid(raw["pid"]),
                "session": 0,
                "correlation_id": raw["correlation"],
                "thread_id": raw["thread"],
                "api": raw["api"],
                "cuda_stream": raw["stream"],
                "step_ordinal": _nullable(ordinal),
                "kernel_name": raw["kernel"],
                "graph_id": raw["graph"],
                "result": raw["result"],
                "observed_by": self.observed_by,
            }
            yield Batch(LAUNCH, LAUNCH.batch(columns | self._common(raw.num_rows)))

    def _executions(self, part: Part, owner: _Owners, only: int | None) -> Iterator[Batch]:
        for raw in self.executions.read(part=part):
            pid, ordinal = owner.of(raw, only)
            near = pa.array(self._near(raw))
            validity = raw["validity"].cast(pa.string())
            timed = pc.and_(near, pc.invert(pc.equal(pc.fill_null(validity, ""), "no_time")))
            names = self._names(raw["name"])
            process = self.process_uid(pa.array(pid, mask=pid < 0))
            columns = {
                "start_ns": pc.add(pc.if_else(timed, raw["start"], self.inside[0]), self.base_ns),
                "end_ns": pc.add(pc.if_else(timed, raw["end"], self.inside[0]), self.base_ns),
                "process_uid": process,
                "gpu_uuid": raw["device"],
                "cuda_context": raw["context"],
                "cuda_stream": raw["stream"],
                "session": 0,
                "correlation_id": raw["correlation"],
                "graph_id": raw["graph"],
                "graph_node_id": raw["graph_node"],
                "name": names,
                "kind": raw["kind"],
                "kernel_class": kernel_class.classes(names, raw["kind"]),
                "step_ordinal": _nullable(ordinal),
                "moved_bytes": raw["bytes"],
                "validity": pc.if_else(pc.and_(pc.invert(near), pc.is_null(validity)), "outside_session", validity),
            }
            yield Batch(GPU_KERNEL, GPU_KERNEL.batch(columns | self._common(raw.num_rows)))
            yield from self._details(raw, columns["start_ns"], process)

    def _details(self, raw: pa.RecordBatch, start: pa.Array, process: pa.DictionaryArray) -> Iterator[Batch]:
        told = pc.or_(pc.is_valid(raw["grid"]), pc.is_valid(raw["communication"]))
        columns = {
            "time_ns": start,
            "process_uid": process,
            "correlation_id": raw["correlation"],
            "graph_node_id": raw["graph_node"],
            "grid": raw["grid"],
            "block": raw["block"],
            "registers": raw["registers"],
            "shared_memory_bytes": raw["shared"],
            "queued_ns": pc.add(raw["queued"], self.base_ns),
            "communication": raw["communication"],
            "recording_uid": self.recording_uid,
            "rank": self.rank,
        }
        rows = DETAIL.batch(columns).filter(told)
        if rows.num_rows:
            yield Batch(DETAIL, rows)

    def _annotations(self) -> Iterator[Batch]:
        pid, thread, stream, start, end = self.ranges.numbers("pid", "thread", "stream", "start", "end")
        depth = _depth(np.stack([pid, thread, stream, self._device_codes()]), start, end)
        at = 0
        for raw in self.ranges.read():
            here = depth[at : at + raw.num_rows]
            at += raw.num_rows
            near = self._near(raw)
            raw = raw if near.all() else raw.filter(pa.array(near))
            yield self._annotation_batch(raw, raw["kind"], self._names(raw["name"]), here[near])

    def _device_codes(self) -> np.ndarray:
        known: dict[str | None, int] = {}
        codes = [np.empty(0, np.int64)]
        for raw in self.ranges.read(["device"]):
            names = np.array(
                [known.setdefault(each, len(known)) for each in raw["device"].dictionary.to_pylist()], np.int64
            )
            at = raw["device"].indices.fill_null(-1).to_numpy(zero_copy_only=False)
            codes.append(np.append(names, -1)[at])
        return np.concatenate(codes)

    def _annotation_batch(self, raw: pa.RecordBatch, kind: Any, name: Any, depth: np.ndarray | None) -> Batch:
        ranges = raw.schema.get_field_index("device") >= 0
        columns = {
            "start_ns": pc.add(raw["start"], self.base_ns),
            "end_ns": pc.add(raw["end"], self.base_ns),
            "process_uid": self.process_uid(raw["pid"]),
            "thread_id": raw["thread"],
            "cuda_stream": raw["stream"] if ranges else None,
            "gpu_uuid": raw["device"] if ranges else None,
            "kind": kind,
            "name": name,
            "depth": depth,
            "details": raw["details"] if ranges else None,
        }
        return Batch(ANNOTATION, ANNOTATION.batch(columns | self._common(raw.num_rows)))

    def _find_steps(self) -> None:
        host: list[steps.Step] = []
        device: list[steps.Step] = []
        for raw in self.ranges.read(["start", "end", "pid", "thread", "kind", "name", "device"]):
            totals = [steps.parse(name or "") for name in raw["name"].dictionary.to_pylist()]
            wanted = np.array([each is not None for each in totals], bool)
            if not wanted.any():
                continue
            is_kind = pc.is_in(raw["kind"].cast(pa.string()), pa.array(_STEP_KINDS)).to_numpy(zero_copy_only=False)
            rows = raw.filter(pa.array(wanted[raw["name"].indices.to_numpy()] & is_kind))
            for row in rows.to_pylist():  # Steps are few: some thousands in the largest recordings.
                into = host if row["device"] is None else device
                pid, thread = row["pid"] if row["pid"] is not None else -1, row["thread"] or 0
                into.append(steps.Step(row["start"], row["end"], pid, thread, row["name"], steps.parse(row["name"])))  # type: ignore[arg-type]
        self.steps = steps.choose(host or device)

    def _engine_steps(self) -> Iterator[Batch]:
        if not self.steps:
            return
        totals = [step.totals for step in self.steps]
        columns = {
            "start_ns": [step.start + self.base_ns for step in self.steps],
            "end_ns": [step.end + self.base_ns for step in self.steps],
            "process_uid": self.process_uid(pa.array([step.pid for step in self.steps], pa.int64())),
            "ordinal": [step.ordinal for step in self.steps],
            "thread_id": [step.thread for step in self.steps],
            "requests": [each.requests for each in totals],
            "context_tokens": [each.context_tokens for each in totals],
            "generation_tokens": [each.generation_tokens for each in totals],
            "scheduled_tokens": [each.scheduled_tokens for each in totals],
            "annotation": [secrets.redact(step.name)[0] for step in self.steps],
            "node": self.node,
            "rank": self.rank,
            "recording_rank": self.rank,
            "recording_uid": self.recording_uid,
            "observed_by": self.observed_by,
        }
        yield Batch(ENGINE_STEP, ENGINE_STEP.batch(columns))


class _Owners:
    """Who launched a correlation id: the process and its step, found by id alone."""

    def __init__(self, pid: np.ndarray, correlation: np.ndarray, ordinal: np.ndarray) -> None:
        order = np.lexsort((pid, correlation))
        self._pid, self._correlation, self._ordinal = pid[order], correlation[order], ordinal[order]

    def of(self, raw: pa.RecordBatch, only: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return process (-1: unknown) and step (-1: none) of each execution.

        Where the execution does not tell its process, the id's only launcher is it; an id that two processes used
        tells none. Where the recording knows of one process alone, that is it.
        """
        pid = raw["pid"].fill_null(-1).to_numpy(zero_copy_only=False).copy()
        wanted = raw["correlation"].fill_null(-1).to_numpy(zero_copy_only=False)
        low = np.searchsorted(self._correlation, wanted, "left")
        high = np.searchsorted(self._correlation, wanted, "right")
        found = (high - low == 1) & (wanted > 0)
        if len(self._pid):
            at = np.minimum(low, len(self._pid) - 1)
            pid = np.where((pid < 0) & found, self._pid[at], pid)
            for shift in range(int((high - low).max(initial=0))):  # As many rounds as processes share an id.
                there = np.minimum(low + shift, len(self._pid) - 1)
                match = (low + shift < high) & (self._pid[there] == pid) & (wanted > 0)
                at, found = np.where(match, there, at), np.where(match, True, found & (self._pid[at] == pid))
        if only is not None:
            pid = np.where(pid < 0, only, pid)
        ordinal = np.where(found, self._ordinal[at], -1) if len(self._pid) else np.full(len(pid), -1, np.int64)
        return pid, ordinal


def _match(names: pa.DictionaryArray, pattern: str) -> pa.Array:
    return pc.match_substring_regex(names.dictionary, pattern).take(names.indices).fill_null(False)


def _nullable(ordinal: np.ndarray) -> pa.Array:
    return pa.array(ordinal, pa.int64(), mask=ordinal < 0)


def _first_of_correlation(pid: np.ndarray, correlation: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Say which call is the launch of its correlation id: the outermost, as a driver call inside a runtime call is not."""
    order = np.lexsort((-end, start, correlation, pid))
    fresh = np.ones(len(order), bool)
    same = (pid[order][1:] == pid[order][:-1]) & (correlation[order][1:] == correlation[order][:-1])
    fresh[1:] = ~same
    result = np.empty(len(order), bool)
    result[order] = fresh
    return result | (correlation <= 0)


def _depth(rows: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return how many ranges of the same row (a column of `rows`) are open where each begins: they nest or follow."""
    depth = np.zeros(len(start), np.int64)
    if not len(start):
        return depth
    order = np.lexsort((-end, start, *rows))
    cuts = np.flatnonzero((np.diff(rows[:, order], axis=1) != 0).any(axis=0)) + 1
    for group in np.split(order, cuts):
        ended = np.searchsorted(np.sort(end[group]), start[group], side="right")
        depth[group] = np.maximum(0, np.arange(len(group)) - ended)
    return depth


def details(columns: dict[str, list[Any]], rows: int) -> list[str | None]:
    """Return each row's details as JSON, of the columns that have a value there; None where none has."""
    found: list[str | None] = []
    for row in range(rows):
        told = {name: values[row] for name, values in columns.items() if values[row] not in (None, "")}
        found.append(json.dumps(told, separators=(",", ":")) if told else None)
    return found
