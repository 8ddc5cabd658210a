"""Ring records as rows of `launch` and `gpu_kernel`, whole columns at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline import schema

LAUNCH = schema.table("launch")
GPU_KERNEL = schema.table("gpu_kernel")
_LAUNCH, _KERNEL, _MEMCPY, _MEMSET, _GRAPH, _TRIAL = range(1, 7)
_KINDS = pa.array(["other", "other", "kernel", "memcpy", "memset", "graph"])
_LEVELS = pa.array(["none", "callbacks", "graph", "node"])
_VALIDITY = pa.array(["ok", "no_time", "reversed", "outside_session"])
SAMPLED, NESTED, NO_TIME, REVERSED, OUTSIDE, CAPTURED = 1, 2, 4, 8, 16, 32
_GRAPH_LEVEL = 2
_NO_STEP = -1
"""What the library writes outside steps; numbers below it are steps that no request caused."""

Records = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Origin:
    """What all rows of one ring have in common, and how its clock reads in node time."""

    node: str
    process_uid: str
    offset_ns: int
    uuids: dict[int, str]
    names: Sequence[str]
    simulated: bool | None
    observed_by: str


@lru_cache(maxsize=4096)
def demangle(name: str) -> str:
    """Return a C++ symbol as it reads in source, or the name itself (the C++ ABI's __cxa_demangle)."""
    if not name.startswith("_Z"):
        return name
    try:
        function = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
        free = ctypes.CDLL(None).free
    except (OSError, AttributeError):
        return name
    function.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    status = ctypes.c_int()
    found = function(name.encode(), None, None, ctypes.byref(status))
    if not found:
        return name
    text = ctypes.string_at(found).decode("utf-8", "replace")
    free(found)
    return text


def _names(numbers: npt.NDArray[np.uint16], names: Sequence[str]) -> pa.DictionaryArray:
    """Return each row's name; number 0, and one that the writer had no room for, is NULL."""
    known = np.clip(numbers, 0, len(names) - 1)
    texts = pa.array([demangle(each) or None for each in names], pa.string())
    return texts.take(pa.array(known)).dictionary_encode()


def _pick(of: pa.Array, numbers: npt.NDArray[np.uint8]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.minimum(numbers, len(of) - 1).astype(np.int32)), of)


def _or_null(values: npt.NDArray[np.int64], missing: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, pa.int64(), mask=missing)


def launches(records: Records, origin: Origin) -> pa.RecordBatch:
    """Return one row per call that enqueued GPU work; its times are the call's."""
    step = records["step"]
    return LAUNCH.batch(
        {
            "start_ns": records["start"] + origin.offset_ns,
            "end_ns": records["end"] + origin.offset_ns,
            "node": origin.node,
            "process_uid": origin.process_uid,
            "session": 0,
            "correlation_id": records["correlation"],
            "thread_id": records["thread"].astype(np.int64),
            "api": _names(records["name"], [*["unknown"], *origin.names[1:]]),
            "step_ordinal": _or_null(step, step == _NO_STEP),
            "kernel_name": _names(records["context"], origin.names),
            "result": records["value"],
            "observed_by": origin.observed_by,
            "detail": _pick(_LEVELS, records["level"]),
            "simulated": origin.simulated,
        },
        rows=len(records),
    )


def _validity(flags: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    found = np.zeros(len(flags), np.uint8)
    for number, bit in ((3, OUTSIDE), (2, REVERSED), (1, NO_TIME)):
        found[flags & bit != 0] = number
    return found


def gpu_kernels(records: Records, origin: Origin, now_ns: int) -> pa.RecordBatch:
    """Return one row per execution. One without times is put at `now_ns`, when it was read, and marked."""
    validity, kind, step = _validity(records["flags"]), records["kind"], records["step"]
    untimed = validity == 1
    moved = (kind == _MEMCPY) | (kind == _MEMSET)
    uuids = [origin.uuids.get(number, str(number)) for number in range(256)]
    return GPU_KERNEL.batch(
        {
            "start_ns": np.where(untimed, now_ns, records["start"] + origin.offset_ns),
            "end_ns": _or_null(records["end"] + origin.offset_ns, untimed),
            "node": origin.node,
            "process_uid": origin.process_uid,
            "gpu_uuid": pa.array(uuids).take(pa.array(records["device"])).dictionary_encode(),
            "cuda_context": records["context"].astype(np.int64),
            "cuda_stream": records["thread"].astype(np.int64),
            "session": 0,
            "correlation_id": records["correlation"],
            "graph_id": _or_null(records["graph"].astype(np.int64), records["graph"] == 0),
            "graph_node_id": _or_null(records["value"], moved | (records["value"] == 0)),
            "name": _names(records["name"], origin.names),
            "kind": _pick(_KINDS, kind),
            "step_ordinal": _or_null(step, step == _NO_STEP),
            "moved_bytes": _or_null(records["value"], ~moved),
            "validity": _pick(_VALIDITY, validity),
            "detail": _pick(_LEVELS, records["level"]),
            "simulated": origin.simulated,
        },
        rows=len(records),
    )


def is_launch(records: Records) -> npt.NDArray[np.bool_]:
    """Say which records are launches."""
    return np.asarray(records["kind"] == _LAUNCH)


def is_trial(records: Records) -> npt.NDArray[np.bool_]:
    """Say which records are no work but steps of a trial: `level` is the rung, `value` what the step's callbacks took."""
    return np.asarray(records["kind"] == _TRIAL)


def is_timed(records: Records) -> npt.NDArray[np.bool_]:
    """Say which records are executions whose times may be used."""
    return np.asarray((records["kind"] > _LAUNCH) & (records["flags"] & (NO_TIME | REVERSED | OUTSIDE) == 0))


def awaited(records: Records) -> int:
    """Return how many of the records are launches whose one execution was asked for, less the executions among them.

    At level node a launch of a graph has many: those are not counted.
    """
    counted = (
        (records["flags"] & SAMPLED != 0) & (records["flags"] & CAPTURED == 0) & (records["level"] == _GRAPH_LEVEL)
    )
    launched = is_launch(records)
    return int((counted & launched & (records["value"] == 0)).sum()) - int((counted & ~launched).sum())
