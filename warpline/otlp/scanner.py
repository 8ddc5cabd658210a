"""The scanner in C: an OTLP protobuf request into Arrow columns in one pass, without a Python object per record.

Built by setup.py where there is a compiler. It takes what it is sure of; for all else, and where it is not built, the
decoders over upb read the same bytes to the same rows (tests compare the two on fuzzed requests).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.machinery
import os
import struct
import threading
from collections.abc import Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from warpline.batch import Batch
from warpline.otlp import logs, metrics, traces
from warpline.otlp.content import is_content
from warpline.otlp.records import INVALID_ID, INVALID_NUMBER, ORIGIN, Request, origin
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
_SEED = int.from_bytes(os.urandom(8), "little")


_COLUMN = struct.Struct("19q")
"""struct Column of column.h: kind, filled, valid, data, text (at, length, room), pool (text's three, offsets, hashes, table,
count, room, mask), and what only C uses."""


class _Scan(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "redacted", "invalid_ids", "invalid_numbers")),
        *((name, ctypes.c_int64) for name in ("rejected_ids", "rejected_times")),
        *((name, ctypes.c_int64) for name in ("first_time", "second_time", "resource_count", "block_count")),
        ("columns", ctypes.c_void_p),
        ("resources", ctypes.c_void_p),
        ("blocks", ctypes.c_void_p),
        ("block_of", ctypes.c_void_p),
    )


def _load() -> ctypes.CDLL | None:
    found = importlib.machinery.PathFinder.find_spec("warpline.otlp._scan", [os.path.dirname(__file__)])
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
    except OSError:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.warpline_keys_new.argtypes, library.warpline_keys_new.restype = [ctypes.c_uint64], pointer
    library.warpline_keys_free.argtypes, library.warpline_keys_free.restype = [pointer], None
    library.warpline_keys_count.argtypes, library.warpline_keys_count.restype = [pointer], number
    library.warpline_key.argtypes, library.warpline_key.restype = [pointer, number, pointer], pointer
    library.warpline_key_use.argtypes, library.warpline_key_use.restype = [pointer, number, number], None
    library.warpline_scan_free.argtypes, library.warpline_scan_free.restype = [pointer], None
    library.warpline_digest.argtypes, library.warpline_digest.restype = [ctypes.c_char_p, number, pointer], None
    library.warpline_scan.argtypes = [pointer, number, ctypes.c_char_p, number, number, pointer, number, pointer]
    library.warpline_scan.restype = ctypes.POINTER(_Scan)
    return library


_library = _load()


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
        self.types = [table.by_name[name].type.arrow for name in filled]
        self.origin_types = {name: table.by_name[name].type.arrow for name in ORIGIN}
        self.kinds = (ctypes.c_int64 * len(filled))(*kinds)
        self.uses = {c.otlp: filled.index(c.name) for c in table.columns if c.otlp and c.name in filled}
        if table is logs.LOG_RECORD:
            self.uses = {"event.name": _EVENT_NAME}  # Says whether the body is content.


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

    def __init__(self, library: ctypes.CDLL, signal: _Signal, keep: bool) -> None:
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


def _keys(library: ctypes.CDLL, name: str, keep: bool) -> _Keys:
    """Return this thread's keys: a scan writes them, so no two threads share any."""
    kept: dict[tuple[str, bool], _Keys] = _threads.__dict__.setdefault("keys", {})
    found = kept.get((name, keep))
    if found is None or found.spent:
        found = kept[name, keep] = _Keys(library, _SIGNALS[name], keep)
    return found


class _Owner:
    """Frees what a scan allocated once the last Arrow buffer over it is gone."""

    def __init__(self, library: ctypes.CDLL, scan: Any) -> None:
        self._library, self._scan = library, scan

    def __del__(self) -> None:
        self._library.warpline_scan_free(self._scan)


def scan(signal: str, body: bytes, request: Request) -> list[Batch] | None:
    """Return the batches in a protobuf request, None where upb has to read it."""
    described = _SIGNALS.get(signal)
    if _library is None or described is None:
        return None
    keys, code = _keys(_library, signal, request.redaction.keep), ctypes.c_int64()
    again = True
    while again:
        found = _library.warpline_scan(
            keys.handle,
            described.number,
            body,
            len(body),
            request.now_ns,
            described.kinds,
            len(described.filled),
            ctypes.byref(code),
        )
        if code.value == _NO_MEMORY:
            raise MemoryError
        if code.value:
            return None
        owner = _Owner(_library, found)
        again = keys.learn()
    return _batches(described, found.contents, owner, body, request)


def _batches(signal: _Signal, found: _Scan, owner: _Owner, body: bytes, request: Request) -> list[Batch] | None:
    origins = _origins(found, body, request)
    if origins is None:
        return None
    _count(found, request)
    if not found.rows:
        return []
    described = _COLUMN.iter_unpack(ctypes.string_at(found.columns, _COLUMN.size * len(signal.filled)))
    rows = found.rows
    columns = {
        name: _array(kind, signal.fixed.get(name), each, rows, owner)
        for name, kind, each in zip(signal.filled, signal.types, described, strict=True)
    }
    columns |= _origin_columns(signal, origins, found, owner)
    arrays = [columns[c.name] for c in signal.table.columns]
    return [Batch(signal.table, pa.RecordBatch.from_arrays(arrays, schema=signal.table.arrow))]


def _count(found: _Scan, request: Request) -> None:
    outcome = request.outcome
    request.redaction.count += found.redacted
    outcome.lost(INVALID_ID, found.invalid_ids)
    outcome.lost(INVALID_NUMBER, found.invalid_numbers)
    outcome.reject(traces.INVALID_IDS, found.rejected_ids, traces.INVALID_IDS_SENTENCE)
    times = f"{found.first_time} to {found.second_time}"
    outcome.reject(traces.INVALID_TIME, found.rejected_times, f"a record's time is {times} ns; give Unix nanoseconds")


def _array(arrow: pa.DataType, fixed: pa.Array | None, column: tuple[int, ...], rows: int, owner: _Owner) -> pa.Array:
    """Return one column over the memory that C filled, which `owner` frees; `fixed` are the values of an enum."""
    kind, filled, valid_at, data_at, text_at, text_length = column[:6]
    if not filled:
        return _nulls(arrow, rows)
    valid = pa.foreign_buffer(valid_at, (rows + 7) // 8, owner) if filled < rows else None
    if kind == _TEXT:
        offsets, text = pa.foreign_buffer(data_at, 4 * rows + 4, owner), _view(text_at, text_length, owner)
        return pa.Array.from_buffers(arrow, rows, [valid, offsets, text])
    if kind == _FLAG:
        return pa.Array.from_buffers(arrow, rows, [valid, pa.foreign_buffer(data_at, (rows + 7) // 8, owner)])
    data = pa.foreign_buffer(data_at, {_WIDE: 8, _ID: 16, _NAME: 4}[kind] * rows, owner)
    if kind == _WIDE:
        return pa.Array.from_buffers(arrow, rows, [valid, data])
    if kind == _ID:
        return pa.uuid().wrap_array(pa.Array.from_buffers(pa.binary(16), rows, [valid, data]))
    numbers = pa.Array.from_buffers(pa.int32(), rows, [valid, data])
    values = fixed
    if values is None:
        pool_at, pool_length, offsets_at, count = column[7], column[8], column[10], column[13]
        pool = [None, pa.foreign_buffer(offsets_at, 4 * count + 4, owner), _view(pool_at, pool_length, owner)]
        values = pa.Array.from_buffers(pa.string(), count, pool)
    return pa.DictionaryArray.from_arrays(numbers, values, safe=False)


def _view(address: int, size: int, owner: _Owner) -> pa.Buffer:
    return pa.foreign_buffer(address, size, owner) if size else pa.py_buffer(b"")


def _nulls(kind: pa.DataType, rows: int) -> pa.Array:
    """Return NULLs; a column that no record fills costs no memory of its own."""
    return _null_run(kind, max(1024, 1 << (rows - 1).bit_length())).slice(0, rows)


@lru_cache(maxsize=64)
def _null_run(kind: pa.DataType, rows: int) -> pa.Array:
    return pa.nulls(rows, kind)


def _origins(found: _Scan, body: bytes, request: Request) -> list[dict[str, str]] | None:
    """Return the columns that each block gives its rows; None where a resource or scope is not what upb takes."""
    places = _numbers(found.resources, 4 * found.resource_count).reshape(-1, 4).tolist()
    blocks = _numbers(found.blocks, 5 * found.block_count).reshape(-1, 5).tolist()
    if len({block[0] for block in blocks}) < len(places):
        return None  # A resource without a scope has no rows that would have it read: whether it is whole, upb says.
    origins = []
    for resource, *scope in blocks:
        parts = [body[at : at + length] if at >= 0 else b"" for at, length in _pairs([*places[resource], *scope])]
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


def _origin_columns(signal: _Signal, origins: list[dict[str, str]], found: _Scan, owner: _Owner) -> dict[str, pa.Array]:
    rows = found.rows
    block_of = pa.Array.from_buffers(pa.int32(), rows, [None, pa.foreign_buffer(found.block_of, 4 * rows, owner)])
    columns = {}
    for name, arrow in signal.origin_types.items():
        values = tuple(each.get(name) for each in origins)
        if any(value is not None for value in values):
            columns[name] = _by_block(values, block_of)
        else:
            columns[name] = _nulls(arrow, rows)
    return columns


def _by_block(values: tuple[str | None, ...], block_of: pa.Array) -> pa.Array:
    if len(values) == 1:
        return pa.DictionaryArray.from_arrays(block_of, _single(values[0]), safe=False)
    distinct = pa.array(values, pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(distinct.indices.take(block_of), distinct.dictionary, safe=False)


@lru_cache(maxsize=256)
def _single(value: str | None) -> pa.Array:
    return pa.array([value], pa.string())


__all__ = ["available", "digest", "scan"]
