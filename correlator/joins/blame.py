"""Who delayed whom: the blame matrix, from the step ledger and the shares of its steps.

A decoded token waits for the whole step: what others' prefill chunks took of it is time that they cost the request
(`prefill`). A request that waits in the queue, or to be resumed after it was preempted, waits while steps run for
others: each of them cost it its share of the busy time in between (`queue`, `preemption`). Only time that GPU work
explains is blamed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins.attribution import EVIDENCE, Int64
from correlator.joins.executions import STRETCH_NS, codes
from correlator.joins.gpu_time import PHASES, Found, words
from correlator.joins.ledger import OUTSIDE, column

LEAST_NS = 10_000
"""Less than this is not worth a row."""
_KINDS = ("queue", "prefill", "preemption")


@dataclass(frozen=True, slots=True)
class _Costs:
    """Busy time by (step, owner), sorted by step; steps in the order of their start."""

    step: Int64
    owner: Int64
    ns: Int64
    phase: Int64
    evidence: Int64


def rows(found: Found, waits: pa.Table) -> pa.Table:
    """Return rows of `blame`, one set for each stretch of time; `waits` are rows of the query `_join_wait`."""
    stretch = found.measured_start // STRETCH_NS
    owner = waits["owner"].cast(pa.string())
    waiting = [each for each in pc.unique(owner).to_pylist() if each not in set(found.owners)]
    found = replace(found, owners=[*found.owners, *waiting])  # Who waits need not be in any step near.
    waits = waits.set_column(0, "owner", pc.index_in(owner, value_set=pa.array(found.owners, pa.string())))
    parts = [_of_stretch(found, low, high, waits) for low, high in _ranges(stretch)]
    return pa.concat_tables(parts).unify_dictionaries() if parts else pa.table({})


def _ranges(stretch: Int64) -> list[tuple[int, int]]:
    """Return the rows of each stretch: measured rows come in their order."""
    edges = [0, *(np.flatnonzero(np.diff(stretch)) + 1).tolist(), len(stretch)]
    return [(low, high) for low, high in itertools.pairwise(edges) if high > low]


def _of_stretch(found: Found, low: int, high: int, waits: pa.Table) -> pa.Table:
    number = int(found.measured_start[low]) // STRETCH_NS
    costs, start = _costs(found, low, high), np.full(len(found.steps.engine), 2**62, np.int64)
    np.minimum.at(start, found.measured.step[low:high], found.measured_start[low:high])
    parts = [_prefill(found, costs), *_waits(found, costs, start, waits)]
    victim, culprit, engine, kind, delay, evidence = (np.concatenate(c) for c in zip(*parts, strict=True))
    unique, place = _unique_rows(victim, culprit, engine, kind)
    total = np.bincount(place, delay, minlength=unique.shape[1]).astype(np.int64)
    worst = np.zeros(unique.shape[1], np.int64)
    np.maximum.at(worst, place, evidence)
    keep = np.flatnonzero((total >= LEAST_NS) & (unique[0] != unique[1]))
    every = np.arange(len(keep))
    return pa.table(
        {
            "start_ns": np.full(len(keep), number * STRETCH_NS, np.int64),
            "victim": words(unique[0][keep], every, lambda c: found.owners[c]),
            "culprit": words(unique[1][keep], every, lambda c: found.owners[c]),
            "process_uid": words(unique[2][keep], every, lambda c: found.names.engine[c]),
            "kind": words(unique[3][keep], every, lambda c: _KINDS[c]),
            "delay_ns": total[keep],
            "evidence": words(worst[keep], every, lambda c: EVIDENCE[c]),
        }
    )


def _unique_rows(*columns: Int64) -> tuple[Int64, Int64]:
    """Return the different columns-wise rows, shape (columns, rows), and the place of each row among them."""
    key = np.zeros(len(columns[0]), np.int64)
    for values in columns:
        code = values if values.max(initial=0) < 1 << 28 else codes(values)  # Hashes of engines, which are few.
        key = key * (int(code.max(initial=0)) + 1) + code
    order = np.argsort(key, kind="stable")
    fresh = np.diff(key[order], prepend=-1) != 0
    place = np.empty(len(order), np.int64)
    place[order] = np.cumsum(fresh) - 1
    return np.stack([values[order[fresh]] for values in columns]), place


def _costs(found: Found, low: int, high: int) -> _Costs:
    """Add the shares of all classes and GPUs of measured rows [low, high) up by (step, owner); requests only."""
    cuts = [slice(*np.searchsorted(s.measured, [low, high])) for s in found.shares]
    owner = np.concatenate([s.owner[c] for s, c in zip(found.shares, cuts, strict=True)])
    ns = np.concatenate([s.busy_ns[c] for s, c in zip(found.shares, cuts, strict=True)])
    owners, first = found.ledger.owners, int(owner.min(initial=2**62))
    rows = np.arange(first, int(owner.max(initial=first - 1)) + 1)
    total = np.bincount(owner - first, ns, minlength=len(rows)).astype(np.int64)
    step = np.searchsorted(owners.offsets, rows, side="right") - 1
    of_step = np.zeros(len(found.steps.engine), np.int8)
    np.maximum.at(of_step, found.measured.step[low:high], found.measured.evidence[low:high])
    worst = np.maximum(owners.evidence[rows], of_step[step]).astype(np.int64)
    keep = (total > 0) & (owners.identity[rows] >= 0) & (step >= OUTSIDE)
    rows = rows[keep]
    return _Costs(
        step[keep], owners.identity[rows], total[keep], found.ledger.phase[rows].astype(np.int64), worst[keep]
    )


Part = tuple[Int64, Int64, Int64, Int64, Int64, Int64]


def _prefill(found: Found, costs: _Costs) -> Part:
    """Pair each decode of a step with each prefill of it: few of the one kind, many of the other."""
    heavy = np.isin(costs.phase, [PHASES.index("prefill"), PHASES.index("recompute")])
    culprits, victims = np.flatnonzero(heavy), np.flatnonzero(costs.phase == PHASES.index("decode"))
    low = np.searchsorted(costs.step[victims], costs.step[culprits], side="left")
    high = np.searchsorted(costs.step[victims], costs.step[culprits], side="right")
    counts = high - low
    culprit = np.repeat(culprits, counts)
    victim = victims[np.arange(len(culprit)) - np.repeat(np.cumsum(counts) - counts - low, counts)]
    engine = found.steps.engine[costs.step[culprit]]
    kind = np.full(len(culprit), _KINDS.index("prefill"), np.int64)
    sure = np.maximum(costs.evidence[culprit], costs.evidence[victim])
    return costs.owner[victim], costs.owner[culprit], engine, kind, costs.ns[culprit], sure


def _waits(found: Found, costs: _Costs, first: Int64, waits: pa.Table) -> list[Part]:
    """Add up what ran between the beginning and the end of each wait, by whom it ran for."""
    parts: list[Part] = []
    victims, engines = column(waits, "owner"), column(waits, "engine")
    begins, ends, kinds = column(waits, "start_ns"), column(waits, "end_ns"), column(waits, "again")
    start = first[costs.step]
    order = np.argsort(start, kind="stable")
    start = start[order]
    engine_of = found.steps.engine[costs.step[order]]
    low, high = np.searchsorted(start, begins), np.searchsorted(start, ends)
    for row in np.flatnonzero(high > low).tolist():
        inside = order[low[row] : high[row]][engine_of[low[row] : high[row]] == engines[row]]
        owner, place = np.unique(costs.owner[inside], return_inverse=True)
        if not len(owner):
            continue
        delay = np.bincount(place.reshape(-1), costs.ns[inside]).astype(np.int64)
        sure = np.zeros(len(owner), np.int64)
        np.maximum.at(sure, place.reshape(-1), costs.evidence[inside])
        fill = np.full(len(owner), 1, np.int64)
        kind = _KINDS.index("preemption") if kinds[row] else _KINDS.index("queue")
        parts.append((fill * victims[row], owner, fill * engines[row], fill * kind, delay, sure))
    return parts
