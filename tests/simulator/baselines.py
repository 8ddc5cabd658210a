"""What simpler tools do, over the same rows that the joins see: the baselines of the accuracy table. Each is a known method.

`time_windows`: whoever's request was open on its socket while something ran has an equal part of it. `arrival_order`: all
of it goes to the request that has waited longest, first come, first served. `equal_share`: the wire tells who was in a step,
and all of a step's members count the same. `sampled_launches`: 100 launches a second are looked at, and what they took
stands for all (parca-agent's default rate).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins.executions import by_messages
from correlator.joins.membership import from_wire

Seen = dict[str, pa.Table]
BASELINES = ("time_windows", "arrival_order", "equal_share", "sampled_launches")
SAMPLED_A_SECOND = 100
_SECOND = 1_000_000_000


def time_windows(seen: Seen) -> pa.Table:
    names, begin, end = _open(seen)
    start, stop = _executions(seen)
    middle = (start + stop) // 2
    inside = (begin[None, :] <= middle[:, None]) & (middle[:, None] < end[None, :])
    row, who = np.nonzero(inside)
    part = (stop - start)[row] / inside.sum(axis=1)[row]
    return _shares(start[row], names[who], part)


def arrival_order(seen: Seen) -> pa.Table:
    names, begin, end = _open(seen)
    order = np.argsort(begin, kind="stable")
    names, begin, end = names[order], begin[order], end[order]
    start, stop = _executions(seen)
    middle = (start + stop) // 2
    inside = (begin[None, :] <= middle[:, None]) & (middle[:, None] < end[None, :])
    row = np.flatnonzero(inside.any(axis=1))
    return _shares(start[row], names[inside[row].argmax(axis=1)], (stop - start)[row].astype(float))


def equal_share(seen: Seen) -> pa.Table:
    members = from_wire(*(seen[f"engine_{t}"] for t in ("message", "emission", "event", "request")))
    step = np.asarray(members["step_ordinal"].to_numpy())
    names = np.array(members["internal_id"].to_pylist())
    start, stop = _executions(seen)
    copies = np.asarray(pc.equal(seen["gpu_kernel"]["kind"].cast(pa.string()), "memcpy").to_numpy(), bool)
    messages = seen["engine_message"].sort_by("engine_time_ns")
    sent = pa.table(
        {
            "engine": np.zeros(len(messages), np.int64),
            "time_ns": messages["engine_time_ns"],
            "ordinal": messages["message"],
            "first_end_ns": np.zeros(len(messages), np.int64),
        }
    )
    of_one = np.zeros(len(start), np.int64)
    ordinal, _ = by_messages(of_one, stop, (of_one[copies], stop[copies]), sent)
    first, last = np.searchsorted(step, ordinal), np.searchsorted(step, ordinal, side="right")
    count = last - first
    row = np.repeat(np.arange(len(start)), count)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    return _shares(start[row], names[place], (stop - start)[row] / count[row])


def sample(seen: Seen) -> tuple[Seen, float]:
    """Return what is seen when 100 launches a second are looked at, and how many times more there were."""
    launches = seen["launch"].sort_by("start_ns")
    second = np.asarray(launches["start_ns"].to_numpy()) // _SECOND
    rank = np.arange(len(second)) - np.searchsorted(second, second)
    chosen = launches.filter(pa.array(rank < SAMPLED_A_SECOND))["correlation_id"]
    kernels = seen["gpu_kernel"]
    kept = kernels.filter(pc.is_in(kernels["correlation_id"], value_set=chosen.combine_chunks()))
    return {**seen, "gpu_kernel": kept}, len(kernels) / max(len(kept), 1)


def _open(seen: Seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = seen["http_exchange"]
    rows = rows.filter(pc.equal(rows["side"].cast(pa.string()), "server"))
    return (
        np.array(rows["response_id"].to_pylist()),
        np.asarray(rows["request_end_ns"].to_numpy()),
        np.asarray(rows["last_chunk_ns"].to_numpy()),
    )


def _executions(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    return (np.asarray(seen["gpu_kernel"][c].to_numpy()) for c in ("start_ns", "end_ns"))  # type: ignore[return-value]


def _shares(time: np.ndarray, owner: np.ndarray, part: np.ndarray) -> pa.Table:
    """Return shares by the time of their execution, which is all that these methods know of steps."""
    return pa.table({"time_ns": time, "owner": owner.astype(str), "share_ns": part})
