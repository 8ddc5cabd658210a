"""The scanner in C: an OTLP protobuf request into Arrow columns in one pass, without a Python object per record.

Built by setup.py where there is a compiler. It takes what it is sure of; for all else, and where it is not built, the
decoders over upb read the same bytes to the same rows (tests compare the two on fuzzed requests).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from warpline import built
from warpline.batch import Batch
from warpline.otlp import logs, metrics, traces
from warpline.otlp.content import is_content
from warpline.otlp.records import INVALID_ID, INVALID_NUMBER, Request, origin
from warpline.otlp.values import Redaction
from warpline.schema import Table, Type

_WIDE, _ID, _TEXT, _NAME, _FLAG = range(5)
_KINDS = {
    Type.INT: _WIDE,
    Type.FLOAT: _WIDE,
    Type.SPAN_ID: _WIDE,
    Type.TRACE_ID: _ID,
    Type.TEXT: _TEXT,
    Type.JSON: _TEXT,
    Type.NAME: _NAME,
    Type.JSON_NAME: _NAME,
    Type.BOOL: _FLAG,
}
_PLAIN, _REDACT, _EVENT_NAME = -1, -2, -3
_UNSURE, _NO_MEMORY = -1, -2
_MAX_KEYS = 8192
_BLOCK = "block"
"""The column that says, by number, which resource and scope each row came from."""
_SEED = int.from_bytes(os.urandom(8), "little")


class _Scan(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "redacted", "invalid_ids", "invalid_numbers")),
        *((name, ctypes.c_int64) for name in ("rejected_ids", "rejected_times", "untimed")),
        *((name, ctypes.c_int64) for name in ("first_time", "second_time", "resource_count", "block_count")),
        ("resources", ctypes.c_void_p),
        ("blocks", ctypes.c_void_p),
    )


_ArrowArray = ctypes.c_int64 * 10
"""Room for a struct ArrowArray of Arrow's C data interface."""


def _load() -> Any:
    path = built.library("warpline.otlp._scan", Path(__file__).parent)
    if path is None:
        return None
    try:  # Python's lock is given up for the long calls alone: each time costs more than a short call takes.
        library = ctypes.PyDLL(path)
        long = ctypes.CDLL(path)
        library.__dict__.update(
            warpline_scan_requests=long.warpline_scan_requests, warpline_digest=long.warpline_digest
        )
    except (OSError, AttributeError):  # Not for this machine, or built from an older scan.c.
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.warpline_keys_new.argtypes, library.warpline_keys_new.restype = [ctypes.c_uint64], pointer
    library.warpline_keys_free.argtypes, library.warpline_keys_free.restype = [pointer], None
    library.warpline_keys_count.argtypes, library.warpline_keys_count.restype = [pointer], number
    library.warpline_key.argtypes, library.warpline_key.restype = [pointer, number, pointer], pointer
    library.warpline_key_use.argtypes, library.warpline_key_use.restype = [pointer, number, number], None
    library.warpline_scan_free.argtypes, library.warpline_scan_free.restype = [pointer], None
    library.warpline_hand_over.argtypes, library.warpline_hand_over.restype = [pointer, pointer], ctypes.c_uint64
    library.warpline_digest.argtypes, library.warpline_digest.restype = [ctypes.c_char_p, number, pointer], None
    library.warpline_scan_requests.argtypes = [
        *(pointer, number, pointer, pointer, number, number),
        *(pointer, number, pointer),
    ]
    library.warpline_scan_requests.restype = ctypes.POINTER(_Scan)
    return library


_library: ctypes.PyDLL | None = _load()


def available() -> bool:
    """Say whether the scanner was built here."""
    return _library is not None


def digest(body: bytes) -> str:
    """Return 32 hex digits that name a request's body, so that one that is sent again is known."""
    if _library is None:
        return hashlib.sha256(body).hexdigest()[:32]
    made = (ctypes.c_uint64 * 2)()
    _library.warpline_digest(body, len(body), made)
    return f"{made[0]:016x}{made[1]:016x}"


class _Signal:
    """What the scanner needs to know of one signal: its number in scan.c, and the columns in the order that C fills them."""

    def __init__(
        self, number: int, table: Table, filled: tuple[str, ...], fixed: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.number, self.table, self.filled = number, table, filled
        self.fixed = {name: pa.array(values, pa.string()) for name, values in fixed.items()}
        kinds = [_KINDS[table.by_name[name].type] for name in filled]
        self.types = {c.name: c.type.arrow for c in table.columns}
        self._layouts: dict[int, pa.Schema] = {}
        self.kinds = (ctypes.c_int64 * len(filled))(*kinds)
        self.uses = {c.otlp: filled.index(c.name) for c in table.columns if c.otlp and c.name in filled}
        if table is logs.LOG_RECORD:
            self.uses = {"event.name": _EVENT_NAME}  # Says whether the body is content.

    def layout(self, filled: int) -> pa.Schema:
        """Return the schema of what C hands over where the columns whose bits are set have values."""
        if filled not in self._layouts:
            names = [name for bit, name in enumerate(self.filled) if filled >> bit & 1]
            kinds = [pa.int32() if name in self.fixed else self.types[name] for name in names]
            self._layouts[filled] = pa.schema([*zip(names, kinds, strict=True), (_BLOCK, pa.int32())])
        return self._layouts[filled]


_TRACES = (
    *("start_ns", "end_ns", "trace_id", "span_id", "parent_span_id", "name", "kind", "status", "status_message"),
    *("attributes", "events", "links", "trace_state", "flags", "dropped"),
    *(column.name for column in traces.PROMOTED.values()),
)

_LOGS = (
    *(
        "time_ns",
        "observed_ns",
        "event_name",
        "severity",
        "severity_number",
        "body",
        "body_type",
        "trace_id",
        "span_id",
    ),
    *("attributes", "flags", "dropped"),
)

_METRICS = (
    *(
        "time_ns",
        "start_ns_of_sum",
        "name",
        "description",
        "unit",
        "metadata",
        "kind",
        "temporality",
        "monotonic",
        "value",
    ),
    *("whole_value", "count", "buckets", "least", "greatest", "exemplars", "attributes", "flags"),
)

_SIGNALS = {
    "traces": _Signal(0, traces.SPAN, _TRACES, {"kind": traces.KINDS, "status": traces.STATUSES}),
    "logs": _Signal(1, logs.LOG_RECORD, _LOGS, {}),
    "metrics": _Signal(2, metrics.METRIC_POINT, _METRICS, {"kind": metrics.KINDS}),
}


class _Keys:
    """The attribute keys that one thread has seen, and what is done with each."""

    def __init__(self, library: ctypes.PyDLL, signal: _Signal, keep: bool) -> None:
        self._library, self._signal, self._keep = library, signal, keep
        self.handle = library.warpline_keys_new(_SEED)
        self.known = 0

    def __del__(self) -> None:
        self._library.warpline_keys_free(self.handle)

    def learn(self) -> bool:
        """Decide on the keys that are new; return whether any of them is not plain, so that the scan must be repeated."""
        count, again = self._library.warpline_keys_count(self.handle), False
        length = ctypes.c_int64()
        for number in range(self.known, count):
            at = self._library.warpline_key(self.handle, number, ctypes.byref(length))
            key = ctypes.string_at(at, length.value).decode() if length.value else ""
            use = _REDACT if is_content(key, self._keep) else self._signal.uses.get(key, _PLAIN)
            self._library.warpline_key_use(self.handle, number, use)
            again = again or use != _PLAIN
        self.known = count
        return again

    @property
    def spent(self) -> bool:
        """Whether to begin anew: too many keys, or some that a scan which was given up left behind."""
        return self.known > _MAX_KEYS or self._library.warpline_keys_count(self.handle) != self.known


_threads = threading.local()


def _keys(library: ctypes.PyDLL, signal: _Signal, keep: bool) -> _Keys:
    """Return this thread's keys: a scan writes them, so no two threads share any."""
    kept: dict[tuple[int, bool], _Keys] = _threads.__dict__.setdefault("keys", {})
    found = kept.get((signal.number, keep))
    if found is None or found.spent:
        found = kept[signal.number, keep] = _Keys(library, signal, keep)
    return found


def scan(signal: str, bodies: Sequence[bytes], request: Request) -> list[Batch] | None:
    """Return the batches in protobuf requests that are read as one, None where upb has to read them."""
    described = _SIGNALS.get(signal)
    found = _scanned(described, bodies, request) if _library and described else None
    if _library is None or described is None or found is None:
        return None
    handed = False
    try:
        origins = _origins(found.contents, request)
        if origins is None:
            return None
        _count(found.contents, request)
        if not found.contents.rows:
            return []
        handed = True
        return [Batch(described.table, _rows(_library, described, found, origins))]
    finally:
        if not handed:
            _library.warpline_scan_free(found)


def _scanned(signal: _Signal, bodies: Sequence[bytes], request: Request) -> Any:
    """Return what C made of bodies: its own memory, to be freed or handed over; None where upb has to read them."""
    assert _library is not None
    keys, code = _keys(_library, signal, request.redaction.keep), ctypes.c_int64()
    count = len(bodies)
    parts, lengths = (ctypes.c_char_p * count)(*bodies), (ctypes.c_int64 * count)(*map(len, bodies))
    given = keys.handle, signal.number, parts, lengths, count, request.now_ns, signal.kinds, len(signal.filled)
    while True:
        found = _library.warpline_scan_requests(*given, ctypes.byref(code))
        if code.value == _NO_MEMORY:
            raise MemoryError
        if code.value:
            return None
        if not keys.learn():
            return found
        _library.warpline_scan_free(found)


def _rows(library: ctypes.PyDLL, signal: _Signal, found: Any, origins: list[dict[str, str]]) -> pa.RecordBatch:
    """Return the rows of a scan over the memory that C filled, which Arrow frees with the last of them."""
    handed = _ArrowArray()
    filled = library.warpline_hand_over(found, handed)
    if not filled:
        raise MemoryError
    layout = signal.layout(filled)
    imported = pa.RecordBatch._import_from_c(ctypes.addressof(handed), layout)
    columns = dict(zip(layout.names, imported.columns, strict=True))
    for name in signal.fixed.keys() & columns.keys():
        columns[name] = pa.DictionaryArray.from_arrays(columns[name], signal.fixed[name], safe=False)
    columns |= _origin_columns(origins, columns.pop(_BLOCK))
    rows = imported.num_rows
    arrays = [columns[name] if name in columns else _nulls(kind, rows) for name, kind in signal.types.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=signal.table.arrow)


def _count(found: _Scan, request: Request) -> None:
    outcome = request.outcome
    request.redaction.count += found.redacted
    request.untimed += found.untimed
    outcome.lost(INVALID_ID, found.invalid_ids)
    outcome.lost(INVALID_NUMBER, found.invalid_numbers)
    outcome.reject(traces.INVALID_IDS, found.rejected_ids, traces.INVALID_IDS_SENTENCE)
    times = f"{found.first_time} to {found.second_time}"
    outcome.reject(traces.INVALID_TIME, found.rejected_times, f"a record's time is {times} ns; give Unix nanoseconds")


@lru_cache(maxsize=256)
def _nulls(kind: pa.DataType, rows: int) -> pa.Array:
    """Return NULLs; a column that no record fills costs no memory of its own."""
    return _null_run(kind, max(1024, 1 << (rows - 1).bit_length())).slice(0, rows)


@lru_cache(maxsize=64)
def _null_run(kind: pa.DataType, rows: int) -> pa.Array:
    return pa.nulls(rows, kind)


def _origins(found: _Scan, request: Request) -> list[dict[str, str]] | None:
    """Return the columns that each block gives its rows; None where a resource or scope is not what upb takes.

    The bodies have to be there still.
    """
    places = _numbers(found.resources, 4 * found.resource_count).reshape(-1, 4).tolist()
    blocks = _numbers(found.blocks, 5 * found.block_count).reshape(-1, 5).tolist()
    if len({block[0] for block in blocks}) < len(places):
        return None  # A resource without a scope has no rows that would have it read: whether it is whole, upb says.
    origins = []
    for resource, *scope in blocks:
        parts = [ctypes.string_at(at, length) if at else b"" for at, length in _pairs([*places[resource], *scope])]
        try:
            columns, redacted = _origin(request.redaction.keep, *parts)
        except (DecodeError, UnicodeDecodeError):
            return None
        request.redaction.count += redacted
        origins.append(columns)
    return origins


def _pairs(place: list[int]) -> list[tuple[int, int]]:
    return list(zip(place[::2], place[1::2], strict=True))


@lru_cache(maxsize=128)
def _origin(keep: bool, resource: bytes, url: bytes, scope: bytes, scope_url: bytes) -> tuple[dict[str, str], int]:
    redaction = Redaction(keep)
    made = origin(
        SimpleNamespace(resource=Resource.FromString(resource), schema_url=url.decode()),
        SimpleNamespace(scope=InstrumentationScope.FromString(scope), schema_url=scope_url.decode()),
        redaction,
    )
    return made, redaction.count


def _numbers(address: int | None, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    if not address or not count:
        return np.zeros(0, np.int64)
    return np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(address)).copy()


def _origin_columns(origins: list[dict[str, str]], block_of: pa.Array) -> dict[str, pa.Array]:
    """Return the columns of resource and scope that have values."""
    if len(origins) > 1 and all(each == origins[0] for each in origins):
        origins, block_of = origins[:1], _zeros(len(block_of))
    present = dict.fromkeys(name for each in origins for name in each)
    return {name: _by_block(tuple(each.get(name) for each in origins), block_of) for name in present}


def _by_block(values: tuple[str | None, ...], block_of: pa.Array) -> pa.Array:
    if len(values) == 1:
        return pa.DictionaryArray.from_arrays(block_of, _single(values[0]), safe=False)
    distinct = pa.array(values, pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(distinct.indices.take(block_of), distinct.dictionary, safe=False)


@lru_cache(maxsize=64)
def _zeros(rows: int) -> pa.Array:
    return pa.array(np.zeros(rows, np.int32))


@lru_cache(maxsize=256)
def _single(value: str | None) -> pa.Array:
    return pa.array([value], pa.string())


__all__ = ["available", "digest", "scan"]
