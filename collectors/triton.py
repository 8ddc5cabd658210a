"""Triton Inference Server's own trace files (`--trace-config triton,file=…`): the phases of each traced request.

Sees what level TIMESTAMPS writes: receive, queue, compute input, compute, compute output, send, with model, version and the
client's request id, ensembles by their parent. Needs no privilege; costs a moment while it reads.

Times are Triton's steady clock, which is CLOCK_MONOTONIC. Where the file was written in this boot of this node they become
node time exactly; elsewhere they are put at the time that the file was written, and the recording says so.

Not seen: which GPU ran a request. Tensors, which level TENSORS writes, are content: dropped and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collectors.recordings import files, secrets
from collectors.recordings.json_events import EventScanner
from collectors.recordings.summary import RECORDING, Summary
from warpline import schema
from warpline.batch import Batch
from warpline.errors import SourceError
from warpline.settings import Settings
from warpline.source import Context

ENGINE_PHASE = schema.table("engine_phase")
TABLES = (ENGINE_PHASE, RECORDING)
SCOPE = "recording"

PHASES = (
    ("request", "REQUEST_START", "REQUEST_END"),
    ("receive", "HTTP_RECV_START", "HTTP_RECV_END"),
    ("receive", "GRPC_WAITREAD_START", "GRPC_WAITREAD_END"),
    ("cache_lookup", "CACHE_LOOKUP_START", "CACHE_LOOKUP_END"),
    ("queue", "QUEUE_START", "COMPUTE_START"),
    ("compute_input", "COMPUTE_START", "COMPUTE_INPUT_END"),
    ("compute", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"),
    ("compute_output", "COMPUTE_OUTPUT_START", "COMPUTE_END"),
    ("send", "HTTP_SEND_START", "HTTP_SEND_END"),
    ("send", "GRPC_SEND_START", "GRPC_SEND_END"),
)
"""(phase, time stamp that begins it, time stamp that ends it), as Triton's server names them."""

_USED = {stamp for _, begin, end in PHASES for stamp in (begin, end)} | {"INFER_RESPONSE_COMPLETE"}
_SAME_BOOT_NS = 3_600_000_000_000
_BEFORE_NS = 60_000_000_000
"""A file may seem older than its last stamp: its time is the wall clock's, to a jiffy, which node time does not follow."""
_SAME_CLOCK = "steady clock of this boot of this node"
_ROWS = 65_536


def check(settings: Settings) -> str | None:
    """Return None: a file can be read anywhere."""
    return None


def recognises(path: Path) -> bool:
    """Say whether a file begins as a Triton trace does: an array of objects with an id and time stamps or a model."""
    if path.is_dir():
        return False
    start = files.head(path).lstrip()
    told = b'"timestamps"' in start or b'"model_name"' in start
    return start.startswith(b"[") and b'"id"' in start and told and b'"ph"' not in start


def read(path: Path, context: Context) -> Iterator[Batch]:
    """Yield the phases of all requests, the `recording` row last; nothing before the whole file was understood.

    Raises SourceError, with the reason in a sentence, where it is not a whole trace of Triton.
    """
    summary = Summary(files.uid_of(path), path.name, "triton")
    found = _Requests()
    with files.parts(path) as parts:
        for part in parts:
            scanner = EventScanner(part)
            for piece, _ in scanner.pieces():
                found.take(piece)
                context.progress(part.share)
            found.lost["is not JSON"] += scanner.unreadable
    if not found.stamps:
        raise SourceError(f"{path.name}: holds no time stamps; it is not a trace of Triton")
    shift, clock = _clock(path, found.last_ns, context, summary)
    found.node = context.node if clock == _SAME_CLOCK else None
    rows = found.rows()
    summary.not_understood.update(found.lost)
    summary.not_kept.update(found.left_out)
    summary.removed["tensors (content)"] += found.tensors
    summary.removed["secrets in ids"] += found.secrets_removed
    for column in ("start_ns", "end_ns"):
        rows[column] = [each + shift for each in rows[column]]
    if rows["start_ns"]:
        summary.span((min(rows["start_ns"]), max(rows["end_ns"])))
    for reason, count in found.lost.items():
        context.lost(reason, count, summary.start_ns, summary.end_ns)
    yield from _batches(rows, summary)
    yield summary.row(clock, None if clock.startswith("unknown") else 1)


def _clock(path: Path, last_ns: int, context: Context, summary: Summary) -> tuple[int, str]:
    """Return what to add to the steady clock, and how that is known."""
    written = path.stat().st_mtime_ns
    anchor = context.clock.anchor_ns
    if -_BEFORE_NS <= written - (last_ns + anchor) < _SAME_BOOT_NS and last_ns + anchor <= context.clock.now_ns():
        return anchor, _SAME_CLOCK
    summary.notes.append("its times are of another machine's or boot's steady clock; only differences mean anything")
    return written - last_ns, "unknown: put at the time that the file was written"


def _batches(rows: dict[str, list[Any]], summary: Summary) -> Iterator[Batch]:
    for low in range(0, len(rows["start_ns"]), _ROWS):
        part = {name: values[low : low + _ROWS] for name, values in rows.items()}
        constant = {"node": f"recording:{summary.recording_uid}", "recording_uid": summary.recording_uid}
        yield summary.see(Batch(ENGINE_PHASE, ENGINE_PHASE.batch(part | constant)))


@dataclass
class _Requests:
    """What the objects of a file say of each id."""

    about: dict[Any, dict[str, Any]] = field(default_factory=dict)
    stamps: dict[Any, dict[str, int]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    tensors: int = 0
    secrets_removed: int = 0
    last_ns: int = 0
    node: str | None = None
    """Node whose executions the times may be held against; None where they are of another boot."""

    def take(self, objects: list[Any]) -> None:
        """Take some objects of the file, in any order."""
        for each in objects:
            identifier = each.get("id") if isinstance(each, dict) else None
            if not isinstance(identifier, (int, str)):
                self.lost["object without an id"] += 1
            elif "tensor" in each or "activity" in each:
                self.tensors += 1
            elif isinstance(each.get("timestamps"), list):
                self._stamp(identifier, each["timestamps"])
            else:
                self.about.setdefault(identifier, {}).update(each)

    def _stamp(self, identifier: Any, stamps: list[Any]) -> None:
        mine = self.stamps.setdefault(identifier, {})
        for stamp in stamps:
            ns = stamp.get("ns") if isinstance(stamp, dict) else None
            name = stamp.get("name") if isinstance(stamp, dict) else None
            if type(ns) is not int or not isinstance(name, str) or not 0 <= ns < 1 << 62:
                self.lost["time stamp without a name or time"] += 1
                continue
            if name not in _USED:
                self.left_out["time stamps that open or end no phase"] += 1
            mine[name] = ns
            self.last_ns = max(self.last_ns, ns)

    def rows(self) -> dict[str, list[Any]]:
        """Return a row for each phase of each id, as columns; a phase whose end is missing or before its start is lost."""
        columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        for identifier, stamps in self.stamps.items():
            about = self.about.get(identifier, {})
            for phase, begin, end in PHASES:
                if begin not in stamps and end not in stamps:
                    continue
                if begin not in stamps or end not in stamps or stamps[end] < stamps[begin]:
                    self.lost["phase with one end, or that ends before it begins"] += 1
                    continue
                row = (stamps[begin], stamps[end], phase, *self._told(identifier, about))
                for name, value in zip(_COLUMNS, row, strict=True):
                    columns[name].append(value)
        return columns

    def _told(self, identifier: Any, about: dict[str, Any]) -> tuple[Any, ...]:
        request, removed = secrets.redact(str(about.get("request_id") or identifier))
        self.secrets_removed += removed
        model = about.get("model_name")
        parent = about.get("parent_id")
        details = {"id": identifier} | ({"version": v} if (v := about.get("model_version")) is not None else {})
        details |= {"node": self.node} if self.node else {}
        return request, str(model) if model else None, None if parent is None else str(parent), json.dumps(details)


_COLUMNS = ("start_ns", "end_ns", "phase", "request_id", "model", "parent_id", "details")
