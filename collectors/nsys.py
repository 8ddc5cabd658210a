"""Nsight Systems reports, as `nsys export --type sqlite` writes them: launches, GPU executions, NVTX ranges, engine steps.

Sees what nsys 2020 and later recorded of CUDA and NVTX: plain or gzip. Columns are read by name, so that the versions of the
export differ in nothing but what they tell. Needs no privilege and no device; costs a core while it reads.

Times are ns since the session began; the session's own UTC time makes them wall clock. Correlation ids are unique per
process alone, so every row keeps its process (bits 24–47 of nsys' global ids; the thread is bits 0–23).

Not seen: the single kernels of CUDA graphs where nsys recorded graphs as a whole (its default), CPU samples, OS calls.
The environment of the target, which these files hold in several tables, is not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from collectors.recordings import files, garbage, raw
from collectors.recordings.assemble import TABLES as ASSEMBLED
from collectors.recordings.assemble import Assembly
from collectors.recordings.sqlite import MAGIC, Database, opened
from collectors.recordings.summary import RECORDING, Summary
from warpline.batch import Batch
from warpline.errors import SourceError
from warpline.settings import Settings
from warpline.source import Context

TABLES = (*ASSEMBLED, RECORDING)
SCOPE = "recording"

_ACTIVITY = "CUPTI_ACTIVITY_KIND_"
_KNOWS = ("StringIds", "TARGET_INFO_SESSION_START_TIME", "META_DATA_EXPORT", "NVTX_EVENTS")
_VERSION_OF_API = re.compile(r"_v\d+$")
_COPY = {1: "HtoD", 2: "DtoH", 3: "HtoA", 4: "AtoH", 5: "AtoA", 6: "AtoD", 7: "DtoA", 8: "DtoD", 9: "HtoH", 10: "PtoP"}
_NVTX_RANGES = (59, 60, 70, 71)
"""Push/pop and start/end ranges, the last two as older exports number them."""
_EXECUTION = (
    "start",
    "end",
    "deviceId",
    "contextId",
    "streamId",
    "correlationId",
    "globalPid",
    "graphId",
    "graphNodeId",
)
_GRID = ("gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ")
_SHARED = ("staticSharedMemory", "dynamicSharedMemory")
_KERNEL = (*_EXECUTION, *_GRID, *_SHARED, "registersPerThread", "demangledName", "shortName")
_MOVE = (*_EXECUTION, "copyKind", "bytes")
_CALL = ("start", "end", "globalTid", "correlationId", "nameId", "returnValue")
_NVTX = ("start", "end", "eventType", "text", "textId", "globalTid")

Columns = dict[str, list[Any]]


def check(settings: Settings) -> str | None:
    """Return None: a file can be read anywhere."""
    return None


def recognises(path: Path) -> bool:
    """Say whether a file is a SQLite database with Nsight Systems' tables."""
    if path.is_dir() or files.head(path, len(MAGIC)) != MAGIC:
        return False
    try:
        with opened(path) as database:
            return len(database.tables.intersection(_KNOWS)) >= 2
    except SourceError:
        return False


def read(path: Path, context: Context) -> Iterator[Batch]:
    """Yield a report's rows, the `recording` row last; nothing before the whole file was understood.

    Raises SourceError, with the reason in a sentence, where it is not an export of Nsight Systems.
    """
    summary = Summary(files.uid_of(path), path.name, "nsys")
    into = Assembly(summary.recording_uid, f"recording:{summary.recording_uid}", "nsys")
    try:
        with opened(path) as database, garbage.paused():
            if len(database.tables.intersection(_KNOWS)) < 2:
                raise SourceError(f"{path.name}: is a SQLite file of another program; give an export of Nsight Systems")
            report = _Report(database, into, context)
            report.read()
            clock = report.settle_clock(path)
            report.tell(summary)
        summary.span(into.span())
        summary.not_understood.update(report.lost + into.lost)
        for reason, count in (report.lost + into.lost).items():
            context.lost(reason, count, summary.start_ns, summary.end_ns)
        for batch in into.batches():
            yield summary.see(batch)
        summary.removed["secrets in names"] += into.secrets_removed
        yield summary.row(clock, None if clock.startswith("unknown") else 1)
    finally:
        into.close()


class _Report:
    """One export being read into raw rows."""

    def __init__(self, database: Database, into: Assembly, context: Context) -> None:
        self.database, self.into, self.context = database, into, context
        self.lost: Counter[str] = Counter()
        self._strings = database.mapping("StringIds", "id", "value")
        self._apis: dict[Any, str] = {}
        self._devices = self._device_names()
        self._total = max(
            1, sum(database.count(_ACTIVITY + each) for each in ("RUNTIME", "KERNEL", "MEMCPY", "MEMSET"))
        )
        self._total += database.count("NVTX_EVENTS")
        self._done = 0

    def read(self) -> None:
        """Read every table that tells of CUDA or NVTX."""
        self._each(_ACTIVITY + "RUNTIME", _CALL, self._call)
        self._each(_ACTIVITY + "KERNEL", _KERNEL, self._kernel)
        self._each(_ACTIVITY + "MEMCPY", _MOVE, self._copy)
        self._each(_ACTIVITY + "MEMSET", _MOVE, self._memset)
        self._each(_ACTIVITY + "GRAPH_TRACE", _EXECUTION, self._graph)
        self._each(_ACTIVITY + "SYNCHRONIZATION", (*_EXECUTION, "syncType"), self._sync)
        for table in ("PROFILER_OVERHEAD", _ACTIVITY + "OVERHEAD"):
            self._each(table, ("start", "end", "globalTid", "nameId"), self._overhead)
        self._each("NVTX_EVENTS", _NVTX, self._nvtx)

    def _each(self, table: str, wanted: tuple[str, ...], take: Callable[[Columns], None]) -> None:
        for values in self.database.columns(table, *wanted):
            columns = dict(zip(wanted, values, strict=True))
            columns = self._timed(table, columns)
            if columns["start"]:
                take(columns)
            self._done += len(values[0])
            self.context.progress(min(1.0, self._done / self._total))
            if self.context.stop.is_set():
                raise SourceError("the import was stopped; nothing of it is stored")

    def _timed(self, table: str, columns: Columns) -> Columns:
        """Leave out what has no whole-number start; an end that is missing or before the start is the start, and marked."""
        starts, ends = columns["start"], columns["end"]
        good = [type(each) is int and 0 <= each < 1 << 62 for each in starts]
        if not all(good):
            self.lost[f"row of {table} without a time"] += good.count(False)
            columns = {k: [v for v, keep in zip(vs, good, strict=True) if keep] for k, vs in columns.items()}
            starts, ends = columns["start"], columns["end"]
        whole = [type(each) is int and each < 1 << 62 for each in ends]
        columns["validity"] = [
            None if ok and end >= start else "reversed" if ok else "no_time"
            for ok, start, end in zip(whole, starts, ends, strict=True)
        ]
        columns["end"] = [
            end if bad is None else start for start, end, bad in zip(starts, ends, columns["validity"], strict=True)
        ]
        if table != "NVTX_EVENTS":
            self.lost[f"row of {table} that ends before it begins"] += columns["validity"].count("reversed")
        return columns

    def _device_names(self) -> dict[tuple[int, int], str]:
        """Return the GPU of (process, CUDA's number in it), as NVML prints it, where the export tells."""
        uuids = self.database.mapping("TARGET_INFO_GPU", "id", "uuid")
        found: dict[tuple[int, int], str] = {}
        for gpu, number, pid in self.database.columns("TARGET_INFO_CUDA_DEVICE", "gpuId", "cudaId", "pid"):
            for each, cuda, process in zip(gpu, number, pid, strict=True):
                if uuids.get(each):
                    found[process, cuda] = f"GPU-{str(uuids[each]).removeprefix('GPU-')}"
        return found

    def _texts(self, ids: list[Any], missing: str = "?") -> list[str]:
        return [str(self._strings.get(each, missing)) for each in ids]

    def _execution(self, columns: Columns, kind: str, names: list[str], **more: Any) -> None:
        rows = len(columns["start"])
        pids = _pid(columns["globalPid"])
        devices = [
            self._devices.get((pid, number), str(number))
            for pid, number in zip(pids.to_pylist(), columns["deviceId"], strict=True)
        ]
        told = {
            "start": columns["start"],
            "end": columns["end"],
            "pid": pids,
            "device": devices,
            "context": columns["contextId"],
            "stream": columns["streamId"],
            "correlation": columns["correlationId"],
            "graph": _positive(columns["graphId"]),
            "graph_node": _positive(columns["graphNodeId"]),
            "name": names,
            "kind": kind,
            "validity": columns["validity"],
        }
        self.into.executions.append(raw.batch(raw.EXECUTION, rows, told | more))

    def _kernel(self, columns: Columns) -> None:
        long, short = columns["demangledName"], columns["shortName"]
        names = self._texts([d if d in self._strings else s for d, s in zip(long, short, strict=True)])
        static, dynamic = (columns[each] for each in _SHARED)
        sizes = {
            "grid": _triples(columns["gridX"], columns["gridY"], columns["gridZ"]),
            "block": _triples(columns["blockX"], columns["blockY"], columns["blockZ"]),
            "registers": columns["registersPerThread"],
            "shared": [(s or 0) + (d or 0) for s, d in zip(static, dynamic, strict=True)],
        }
        self._execution(columns, "kernel", names, **sizes)

    def _copy(self, columns: Columns) -> None:
        names = [f"Memcpy {_COPY.get(kind, 'of unknown kind')}" for kind in columns["copyKind"]]
        self._execution(columns, "memcpy", names, bytes=columns["bytes"])

    def _memset(self, columns: Columns) -> None:
        self._execution(columns, "memset", ["Memset"] * len(columns["start"]), bytes=columns["bytes"])

    def _graph(self, columns: Columns) -> None:
        self._execution(columns, "graph", [f"CUDA graph {each}" for each in columns["graphId"]])

    def _call(self, columns: Columns) -> None:
        found = {
            "start": columns["start"],
            "end": columns["end"],
            "pid": _pid(columns["globalTid"]),
            "thread": _thread(columns["globalTid"]),
            "correlation": columns["correlationId"],
            "api": [self._api(each) for each in columns["nameId"]],
            "result": columns["returnValue"],
        }
        self.into.calls.append(raw.batch(raw.CALL, len(columns["start"]), found))

    def _api(self, identifier: Any) -> str:
        found = self._apis.get(identifier)
        if found is None:
            found = self._apis[identifier] = _VERSION_OF_API.sub("", str(self._strings.get(identifier, "?")))
        return found

    def _range(self, columns: Columns, kind: str, names: list[str], **more: Any) -> None:
        found = {"start": columns["start"], "end": columns["end"], "kind": kind, "name": names}
        self.into.ranges.append(raw.batch(raw.RANGE, len(names), found | more))

    def _sync(self, columns: Columns) -> None:
        names = [_SYNC.get(each, "Synchronisation") for each in columns["syncType"]]
        device = [str(each) for each in columns["deviceId"]]
        self._range(
            columns, "cuda_sync", names, pid=_pid(columns["globalPid"]), stream=columns["streamId"], device=device
        )

    def _overhead(self, columns: Columns) -> None:
        where = {"pid": _pid(columns["globalTid"]), "thread": _thread(columns["globalTid"])}
        self._range(columns, "overhead", self._texts(columns["nameId"]), **where)

    def _nvtx(self, columns: Columns) -> None:
        is_range = [
            kind in _NVTX_RANGES and bad is None
            for kind, bad in zip(columns["eventType"], columns["validity"], strict=True)
        ]
        self.into.counts["NVTX marks, definitions and ranges left open"] += is_range.count(False)
        columns = {k: [v for v, keep in zip(vs, is_range, strict=True) if keep] for k, vs in columns.items()}
        texts = self._texts(columns["textId"], "")
        names = [str(text) if text is not None else other for text, other in zip(columns["text"], texts, strict=True)]
        where = {"pid": _pid(columns["globalTid"]), "thread": _thread(columns["globalTid"])}
        self._range(columns, "nvtx", names, **where)

    def settle_clock(self, path: Path) -> str:
        """Set the moment that times count from; return how it is known."""
        begun = self._all("TARGET_INFO_SESSION_START_TIME", "utcEpochNs")
        if begun and type(begun[0]) is int and begun[0] > 0:
            self.into.base_ns = begun[0]
            return "wall clock: session's UTC time + time in session"
        self.into.span()
        self.into.base_ns = path.stat().st_mtime_ns - self.into.inside[1]
        return "unknown: put at the time that the file was written"

    def tell(self, summary: Summary) -> None:
        """Tell the summary what is worth knowing of the report besides its rows."""
        summary.about["schema"] = self.database.setting("META_DATA_EXPORT", "EXPORT_SCHEMA_VERSION") or "unknown"
        models = Counter(self.database.mapping("TARGET_INFO_GPU", "id", "name").values())
        summary.about.update({"devices": dict(models)} if models else {})
        mode = self.database.setting("META_DATA_CAPTURE", "CUDA_GRAPH_TRACE_OPTIONS:MODE")
        if mode == "Graph" and not self.database.count(_ACTIVITY + "GRAPH_TRACE"):
            summary.notes.append("CUDA graphs were recorded as a whole, and none was launched")
        elif mode == "Graph":
            summary.notes.append("CUDA graphs were recorded as a whole: their single kernels are not in the report")
        if not self.into.executions.rows:
            summary.notes.append("it holds no GPU executions; it was recorded without CUDA tracing")
        summary.not_kept.update(self.into.counts)
        captured_names = self._all("META_DATA_CAPTURE", "name")
        summary.removed["environment variables"] += sum("ENVIRONMENT_VARIABLE" in str(each) for each in captured_names)
        summary.removed["environment dumps"] += self._all("TARGET_INFO_SYSTEM_ENV", "name").count("DeviceEnvironment")

    def _all(self, table: str, column: str) -> list[Any]:
        return [each for (values,) in self.database.columns(table, column) for each in values]


_SYNC = {1: "Event Sync", 2: "Stream Wait Event", 3: "Stream Sync", 4: "Context Sync"}


def _numbers(values: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    missing = np.array([type(each) is not int for each in values], bool)
    return np.array([0 if bad else each for each, bad in zip(values, missing, strict=True)], np.int64), missing


def _pid(identifiers: list[Any]) -> pa.Array:
    numbers, missing = _numbers(identifiers)
    return pa.array((numbers >> 24) & 0xFFFFFF, mask=missing)


def _thread(identifiers: list[Any]) -> pa.Array:
    numbers, missing = _numbers(identifiers)
    return pa.array(numbers & 0xFFFFFF, mask=missing)


def _positive(values: list[Any]) -> list[int | None]:
    return [each or None for each in values]


def _triples(x: list[Any], y: list[Any], z: list[Any]) -> list[str | None]:
    return [None if a is None else f"{a},{b},{c}" for a, b, c in zip(x, y, z, strict=True)]
