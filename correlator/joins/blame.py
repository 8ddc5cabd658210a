"""Who delayed whom: the blame matrix, from the shares of steps and the waits of requests.

A decoded token waits for the whole step: what others' prefill chunks took of it is time that they cost the request
(`prefill`). A request that waits in the queue, or to be resumed after it was preempted, waits while steps run for
others: each of them cost it its share of the busy time in between (`queue`, `preemption`). Only time that GPU work
explains is blamed. A wait is known when it has ended: so this is made of `share`, which need not be made again for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins import executions
from correlator.joins.attribution import EVIDENCE, Int64
from correlator.joins.executions import STRETCH_NS, Names, codes
from correlator.joins.gpu_time import PHASES, words
from correlator.joins.ledger import column

LEAST_NS = 10_000
"""Less than this is not worth a row."""
_KINDS = ("queue", "prefill", "preemption")


@dataclass(frozen=True, slots=True)
class _Costs:
    """Busy time by (step, request), sorted by step; of each its step's engine and start."""

    step: Int64
    owner: Int64
    ns: Int64
    phase: Int64
    evidence: Int64
    engine: Int64
    start: Int64


def rows(costs: pa.Table, waits: pa.Table, known: Names) -> pa.Table:
    """Return rows of `blame`, one set for each stretch of time.

    `costs` are rows of the query `_join_cost`, `waits` of `_join_wait`; `known` names the engines around.
    """
    owners = pc.unique(pa.chunked_array([*_texts(costs, "owner").chunks, *_texts(waits, "owner").chunks], pa.string()))
    names = owners.drop_null()
    names = names.take(pc.sort_indices(names))
    waits = waits.set_column(0, "owner", pc.index_in(_texts(waits, "owner"), value_set=names))
    owner = _filled(pc.index_in(_texts(costs, "owner"), value_set=names))
    engine = executions.engines_by_name(_texts(costs, "process_uid"), column(costs, "stretch"), known)
    stretch = column(costs, "stretch")
    parts = [
        _of_stretch(number, _summed(costs.filter(pa.array(mine)), owner[mine], engine[mine]), waits, names, known)
        for number in np.unique(stretch).tolist()
        for mine in [(stretch == number) & (engine >= 0)]
        if mine.any()
    ]
    return pa.concat_tables(parts).unify_dictionaries() if parts else pa.table({})


def _texts(rows: pa.Table, name: str) -> pa.ChunkedArray:
    return rows[name].cast(pa.string())


def _filled(codes: pa.ChunkedArray) -> Int64:
    return np.asarray(pc.fill_null(codes, -1).to_numpy(), np.int64)


def _summed(costs: pa.Table, owner: Int64, engine: Int64) -> _Costs:
    """Add costs of one stretch up over the processes of each engine."""
    ordinal = column(costs, "ordinal")
    order = np.lexsort((owner, ordinal, engine))
    owner, engine, ordinal = owner[order], engine[order], ordinal[order]
    starts, ns, phase, sure = (column(costs, c)[order] for c in ("start_ns", "busy_ns", "phase", "evidence"))
    fresh_step = (np.diff(engine, prepend=-1) != 0) | (np.diff(ordinal, prepend=ordinal[:1] - 1) != 0)
    step = np.cumsum(fresh_step) - 1
    start = np.full(int(step.max(initial=-1)) + 1, 2**62, np.int64)
    np.minimum.at(start, step, starts)
    first = np.flatnonzero(fresh_step | (np.diff(owner, prepend=-2) != 0))
    total, worst = np.add.reduceat(ns, first), np.maximum.reduceat(sure, first)
    some = (total > 0) & (owner[first] >= 0)
    at = first[some]
    return _Costs(step[at], owner[at], total[some], phase[at], worst[some], engine[at], start[step[at]])


def _of_stretch(number: int, costs: _Costs, waits: pa.Table, names: pa.Array, known: Names) -> pa.Table:
    parts = [_prefill(costs), *_waits(costs, waits)]
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
            "victim": words(unique[0][keep], every, lambda c: names[c].as_py()),
            "culprit": words(unique[1][keep], every, lambda c: names[c].as_py()),
            "process_uid": words(unique[2][keep], every, lambda c: known.engine[c]),
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


Part = tuple[Int64, Int64, Int64, Int64, Int64, Int64]


def _prefill(costs: _Costs) -> Part:
    """Pair each decode of a step with each prefill of it: few of the one kind, many of the other."""
    heavy = np.isin(costs.phase, [PHASES.index("prefill"), PHASES.index("recompute")])
    culprits, victims = np.flatnonzero(heavy), np.flatnonzero(costs.phase == PHASES.index("decode"))
    low = np.searchsorted(costs.step[victims], costs.step[culprits], side="left")
    high = np.searchsorted(costs.step[victims], costs.step[culprits], side="right")
    counts = high - low
    culprit = np.repeat(culprits, counts)
    victim = victims[np.arange(len(culprit)) - np.repeat(np.cumsum(counts) - counts - low, counts)]
    engine = costs.engine[culprit]
    kind = np.full(len(culprit), _KINDS.index("prefill"), np.int64)
    sure = np.maximum(costs.evidence[culprit], costs.evidence[victim])
    return costs.owner[victim], costs.owner[culprit], engine, kind, costs.ns[culprit], sure


def _waits(costs: _Costs, waits: pa.Table) -> list[Part]:
    """Add up what ran between the beginning and the end of each wait, by whom it ran for."""
    parts: list[Part] = []
    victims, engines = column(waits, "owner"), column(waits, "engine")
    begins, ends, kinds = column(waits, "start_ns"), column(waits, "end_ns"), column(waits, "again")
    order = np.argsort(costs.start, kind="stable")
    start, engine_of = costs.start[order], costs.engine[order]
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
