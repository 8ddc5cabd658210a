"""PyTorch Kineto traces (torch.profiler's Chrome JSON): launches, GPU executions, annotations and engine steps.

Sees what torch.profiler wrote, from PyTorch 1.8.1 (2021) on, on NVIDIA (CUPTI), AMD (roctracer, rocprofiler) and MTIA: plain
or gzip; a tar or a directory of such files is one recording with several ranks. Needs no privilege and no device; costs a
core while it reads, with memory that does not grow with the file.

Times: `ts` and `dur` are microseconds. With `baseTimeNanoseconds` they count from it (whatever their size), else from 1970.
A time in µs since 1970 with a fraction is taken from its digits, since a float would lose it.

Not seen: GPU UUIDs (a trace numbers devices per process), memory allocations, call stacks, and inside CUDA graphs the
operator that a kernel belongs to. Top-level metadata is kept by an allow-list: the environment in it is dropped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from collectors.recordings import files, garbage, secrets
from collectors.recordings.assemble import TABLES as ASSEMBLED
from collectors.recordings.assemble import Assembly
from collectors.recordings.files import Part
from collectors.recordings.json_events import EventScanner
from collectors.recordings.kineto_rows import KinetoRows
from collectors.recordings.summary import RECORDING, Summary
from warpline.batch import Batch
from warpline.errors import SourceError
from warpline.settings import Settings
from warpline.source import Context

TABLES = (*ASSEMBLED, RECORDING)
SCOPE = "recording"

_MARKS = (b'"traceEvents"', b'"schemaVersion"', b'"deviceProperties"', b'"distributedInfo"', b'"baseTimeNanoseconds"')
_YEAR_NS = 31_556_952_000_000_000
_OLDEST_NS = 40 * _YEAR_NS
_NEWEST_NS = 130 * _YEAR_NS
"""Times outside of 2010–2100 are no wall clock: no such profiler is older, and the doors believe no later one."""


def check(settings: Settings) -> str | None:
    """Return None: a file can be read anywhere."""
    return None


def recognises(path: Path) -> bool:
    """Say whether a file (or the first of a tar or directory) begins as a Kineto trace does."""
    start = files.head(path, 1 << 20).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"["):
        return b'"ph"' in start[:4096]
    return start.startswith(b"{") and any(mark in start for mark in _MARKS)


def read(path: Path, context: Context) -> Iterator[Batch]:
    """Yield a trace's rows, the `recording` row last; nothing before the whole file was understood.

    Raises SourceError, with the reason in a sentence, where it is not a whole Kineto trace.
    """
    summary = Summary(files.uid_of(path), path.name, "kineto")
    found: list[_Trace] = []
    try:
        with files.parts(path) as parts, garbage.paused():
            for part in parts:
                if _may_be_trace(part.name):
                    found.append(_Trace(part, summary.recording_uid))
                    found[-1].scan(part, context)
        if not found:
            raise SourceError(f"{path}: holds no .json or .json.gz file; give Kineto traces")
        for number, trace in enumerate(found):
            trace.finish(summary, number, len(found), context)
        for trace in found:
            for batch in trace.rows.into.batches():
                yield summary.see(batch)
            summary.removed["secrets in names"] += trace.rows.into.secrets_removed
        _warn(summary, context)
        yield summary.row(found[0].clock, _widest(each.error_ns for each in found))
    finally:
        for trace in found:
            trace.rows.into.close()


def _may_be_trace(name: str) -> bool:
    return not name.endswith((".md", ".txt", ".csv", ".html", ".py"))


class _Trace:
    """One trace read: its raw rows, and what its metadata says of clock, rank and devices."""

    def __init__(self, part: Part, uid: str) -> None:
        self.name, self.written_ns = part.name, os.fstat(part.raw.fileno()).st_mtime_ns
        self.rows = KinetoRows(Assembly(uid, f"recording:{uid}", "kineto"))

    def scan(self, part: Part, context: Context) -> None:
        """Read the part whole; raise SourceError where it is no whole trace."""
        scanner = EventScanner(part)
        events = 0
        for piece, text in scanner.pieces():
            events += len(piece)
            self.rows.take(piece, text)
            context.progress(part.share)
            if context.stop.is_set():
                raise SourceError(f"{part.name}: the import was stopped; nothing of it is stored")
        into = self.rows.into
        kept = into.calls.rows + into.executions.rows + into.ranges.rows
        if not kept and events == sum(self.rows.lost.values()):
            raise SourceError(f"{part.name}: none of its {events} events is a trace event; it is not a Kineto trace")
        self.rows.lost["event is not JSON"] += scanner.unreadable
        self._read_metadata(scanner.metadata)

    def _read_metadata(self, metadata: dict[str, Any]) -> None:
        base = metadata.get("baseTimeNanoseconds")
        self.base_ns = int(base) if isinstance(base, (int, str)) and str(base).isdigit() else 0
        told = metadata.get("distributedInfo")
        self.distributed: dict[str, Any] = told if isinstance(told, dict) else {}
        self.rank = self.distributed.get("rank") if isinstance(self.distributed.get("rank"), int) else None
        listed = metadata.get("deviceProperties") or metadata.get("computeProperties")
        names = [each.get("name") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        self.devices = Counter(str(each) for each in names if each)
        self.variables, self.secrets = secrets.in_metadata(metadata)
        self.versions = {k: metadata[k] for k in _VERSIONS if isinstance(metadata.get(k), (int, float))}

    def finish(self, summary: Summary, number: int, of: int, context: Context) -> None:
        """Settle rank and clock, and tell the summary what was found."""
        into = self.rows.into
        if self.rank is None:
            self.rank = files.rank_in(self.name)
        if self.rank is None and of > 1:
            self.rank = number
        into.rank, into.base_ns = self.rank, self.base_ns
        self._settle_clock(into.span(), summary)
        summary.span(into.span())
        self.rows.lost += into.lost
        if self.rank is not None:
            summary.ranks.add(self.rank)
        summary.not_kept.update(into.counts)
        summary.not_understood.update(self.rows.lost)
        summary.removed["environment variables"] += self.variables
        summary.removed["secrets in metadata"] += self.secrets
        summary.about.update(self.versions)
        summary.about.update({"devices": dict(self.devices)} if self.devices else {})
        summary.about.update({k: self.distributed[k] for k in _DISTRIBUTED if k in self.distributed})
        for reason, count in self.rows.lost.items():
            context.lost(reason, count, summary.start_ns, summary.end_ns)

    def _settle_clock(self, span: tuple[int, int] | None, summary: Summary) -> None:
        into = self.rows.into
        self.error_ns: int | None = self.rows.error_ns
        self.clock = "wall clock: baseTimeNanoseconds + ts"
        if not self.base_ns:
            self.clock = "wall clock: ts in µs since 1970"
        if span is not None and not _OLDEST_NS <= span[0] < _NEWEST_NS:
            self.clock = "unknown: put at the time that the file was written"
            into.base_ns, self.error_ns = self.written_ns - into.inside[1], None
            summary.notes.append(
                f"{self.name}: its times are no wall clock; only differences between them mean anything"
            )
        if into.executions.rows == 0:
            summary.notes.append(f"{self.name}: holds no GPU executions; it was recorded on the CPU alone")


_VERSIONS = ("cupti_version", "cuda_runtime_version", "cuda_driver_version", "roctracer_version", "hip_runtime_version")
_DISTRIBUTED = ("world_size", "backend", "nccl_version")


def _widest(errors: Iterable[int | None]) -> int | None:
    known = list(errors)
    return None if None in known else max(each for each in known if each is not None)


def _warn(summary: Summary, context: Context) -> None:
    if summary.end_ns is not None and summary.end_ns > context.clock.now_ns() + _YEAR_NS // 365:
        when = pa.scalar(summary.end_ns, pa.timestamp("ns")).as_py().year
        summary.notes.append(
            f"it ends in the future (year {when}): the clock of the machine that recorded it was wrong"
        )
