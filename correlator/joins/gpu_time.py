"""GPU time of a stretch of time, shared among the requests of its steps: from executions to rows of `share`.

Executions with their steps (executions.py) are added up by (step, GPU, class), and only the sums meet the members of their
steps. Results are cut into stretches of `STRETCH_NS` by the start of an execution, so that a
late row changes the stretches that it falls into and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins import executions, ledger
from correlator.joins.attribution import (
    BUCKETS,
    CLASSES,
    EVIDENCE,
    Bool,
    Int8,
    Int64,
    Measured,
    Shares,
    share,
)
from correlator.joins.executions import STRETCH_NS, Kernels, Names, Query, codes, load
from correlator.joins.ledger import Ledger, Steps, column

POWER_NS = 5_000_000_000
"""A reading of a GPU's power holds for executions so long after it."""
PHASES = ("prefill", "decode", "recompute", "draft", None)


@dataclass(frozen=True, slots=True)
class Found:
    """GPU time of one stretch, added up and shared."""

    steps: Steps
    ledger: Ledger
    measured: Measured
    powered: Bool
    """True where the power of the measured row's GPU is known."""
    measured_start: Int64
    measured_end: Int64
    measured_process: Int64
    shares: list[Shares]
    names: Names
    owners: list[str]
    """Ids of requests, by their identities."""


def find(query: Query, since_ns: int, until_ns: int) -> Found:
    """Return the shares of all GPU time of executions that began in [since_ns, until_ns)."""
    window = {"since_ns": since_ns, "until_ns": until_ns}
    names = executions.names(query, (since_ns, until_ns))
    kernels, steps = executions.find(query, (since_ns, until_ns), names)
    inside = steps.ordinal[ledger.OUTSIDE :]
    bounds = {"low": int(inside.min()), "high": int(inside.max())} if len(inside) else {"low": 0, "high": -1}
    members, told = (query(load(name), {**window, **bounds}) for name in ("member", "step"))
    owner, owners = _ranked(members["owner"])
    told = told.append_column("engine", pa.array(executions.engines_of_tellers(column(told, "process"), names)))
    book = ledger.build(steps, members, owner, told)
    measured, (start, end), process = _measured(kernels, book)
    energy, powered = _energy(measured.gpu, start, measured.busy_ns, query(load("power"), window))
    measured = replace(measured, energy_nj=energy)
    return Found(steps, book, measured, powered, start, end, process, list(share(book.owners, measured)), names, owners)


def _ranked(words: pa.ChunkedArray) -> tuple[Int64, list[str]]:
    """Return for each text its place among all different ones, and those in their order."""
    encoded = words.cast(pa.string()).combine_chunks().dictionary_encode()
    if not len(encoded):
        return np.zeros(0, np.int64), []
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(pa.array(order)).to_pylist()


def _measured(kernels: Kernels, book: Ledger) -> tuple[Measured, tuple[Int64, Int64], Int64]:
    """Add executions up by (stretch, process, step, GPU, class); return also when the first began and the last ended."""
    stretch = kernels.start // STRETCH_NS
    key = stretch - stretch.min(initial=0)
    for values in (codes(kernels.process), kernels.step, codes(kernels.gpu), kernels.kind):
        key = key * (int(values.max(initial=0)) + 1) + values
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1) != 0)
    if not len(first):
        empty = np.zeros(0, np.int64)
        return Measured(empty, empty, empty, empty, empty, empty, empty.astype(np.int8)), (empty, empty), empty
    head = order[first]
    busy = np.add.reduceat(kernels.busy[order], first)
    start = np.minimum.reduceat(kernels.start[order], first)
    end = np.maximum.reduceat(kernels.end[order], first)
    evidence = np.maximum.reduceat(kernels.evidence[order], first)
    step = kernels.step[head]
    measured = Measured(
        step,
        kernels.gpu[head],
        kernels.kind[head],
        np.add.reduceat((kernels.end - kernels.start)[order], first),
        busy,
        np.zeros_like(busy),
        np.maximum(evidence, book.completeness[step]),
    )
    return measured, (start, end), kernels.process[head]


def _energy(gpu: Int64, start: Int64, busy: Int64, power: pa.Table) -> tuple[Int64, Bool]:
    """Return the energy of busy time in nJ, by a reading of its GPU's power, and where there is one: the last in the five
    seconds before, else the first in the five seconds after."""
    energy, known = np.zeros(len(gpu), np.int64), np.zeros(len(gpu), bool)
    whose, at, watts = column(power, "gpu"), column(power, "time_ns"), power["value"].to_numpy()
    for code in np.unique(whose).tolist():
        times, values = at[whose == code], watts[whose == code]
        mine = np.flatnonzero(gpu == code)
        place = np.searchsorted(times, start[mine], side="right") - 1
        place += (place < 0) | (start[mine] - times[place] > POWER_NS)
        near = (place < len(times)) & (times[np.minimum(place, len(times) - 1)] - start[mine] <= POWER_NS)
        mine, place = mine[near], place[near]
        energy[mine] = np.round(busy[mine] * values[place]).astype(np.int64)
        known[mine] = True
    return energy, known


def rows(found: Found) -> pa.Table:
    """Return the rows of `share`: what went to nobody is left out, as it adds nothing."""
    owners = words(
        found.ledger.owners.identity,
        np.arange(len(found.ledger.owners.identity)),
        lambda c: BUCKETS[-1 - c] if c < 0 else found.owners[c],
    )
    parts = [_rows(found, owners, each) for each in found.shares]
    return pa.concat_tables(parts).unify_dictionaries() if parts else pa.table({})


def _rows(found: Found, owners: pa.DictionaryArray, shares: Shares) -> pa.Table:
    some = (shares.share_ns > 0) | (shares.busy_ns > 0)
    group, owner = shares.measured[some], shares.owner[some]
    measured, names = found.measured, found.names
    inside = measured.step >= ledger.OUTSIDE
    energy = shares.energy_nj[some] / 1e9
    return pa.table(
        {
            "time_ns": found.measured_start[group],
            "end_ns": found.measured_end[group],
            "node": words(found.measured_process, group, lambda c: names.process[c][1]),
            "process_uid": words(found.measured_process, group, lambda c: names.process[c][0]),
            "step_ordinal": pa.array(found.steps.ordinal[measured.step][group], mask=~inside[group]),
            "gpu_uuid": words(measured.gpu, group, lambda c: names.gpu[c]),
            "kernel_class": words(measured.kind, group, lambda c: CLASSES[c]),
            "owner": pa.DictionaryArray.from_arrays(owners.indices.take(pa.array(owner)), owners.dictionary),
            "share_ns": shares.share_ns[some],
            "busy_ns": shares.busy_ns[some],
            "share_j": pa.array(energy, mask=~found.powered[group]),
            "phase": _phases(found.ledger.phase[owner]),
            "weights": _listed(shares.by_class[some], ("tokens", "class")),
            "evidence": _listed(shares.evidence[some], EVIDENCE),
        }
    )


def words(codes: Int64, rows: Int64, word: Callable[[int], str | None]) -> pa.DictionaryArray:
    """Return the words of `codes[rows]`, asking for each code once."""
    unique, place = _places(codes)
    words = [word(c) for c in unique.tolist()]
    index = {w: i for i, w in enumerate(dict.fromkeys(w for w in words if w is not None))}
    of_code = np.array([index.get(w, -1) if w is not None else -1 for w in words], np.int32)
    indices = of_code[place][rows] if len(words) else np.zeros(0, np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(indices, mask=indices < 0), pa.array(list(index), pa.string()))


def _places(codes: Int64) -> tuple[Int64, Int64]:
    """Return the different codes, sorted, and the place of each among them."""
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    if high - low > 1 << 20:
        unique, place = np.unique(codes, return_inverse=True)
        return unique, place.reshape(-1)
    seen = np.zeros(high - low + 1, bool)
    seen[codes - low] = True
    return np.flatnonzero(seen) + low, (np.cumsum(seen) - 1)[codes - low]


def _phases(codes: Int8) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32), mask=codes >= len(PHASES) - 1), pa.array(PHASES[:-1], pa.string())
    )


def _listed(codes: np.ndarray, words: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(words, pa.string()))
