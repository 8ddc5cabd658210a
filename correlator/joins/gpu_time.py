"""GPU time of a stretch of time, shared among the requests of its steps: from executions to rows of `share`.

Executions meet their launches in SQL, by correlation id; they are added up by (step, GPU, class) here, and only the sums
meet the members of their steps. Results are cut into stretches of `STRETCH_NS` by the start of an execution, so that a
late row changes the stretches that it falls into and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa

from correlator.joins import ledger
from correlator.joins.attribution import (
    BUCKETS,
    CLASSES,
    DERIVED,
    ESTIMATED,
    EVIDENCE,
    Bool,
    Int8,
    Int64,
    Measured,
    Shares,
    share,
)
from correlator.joins.busy import busy_time
from correlator.joins.ledger import Ledger, Steps, column

STRETCH_NS = 5_000_000_000
PHASES = ("prefill", "decode", "recompute", "draft", None)

Query = Callable[[str, Mapping[str, Any]], pa.Table]
"""Runs one SELECT: `Store.query`."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """Executions as arrays; `step` is a number in `Found.steps`."""

    process: Int64
    gpu: Int64
    kind: Int64
    start: Int64
    end: Int64
    busy: Int64
    step: Int64
    evidence: Int8


@dataclass(frozen=True, slots=True)
class Found:
    """GPU time of one stretch, added up and shared."""

    steps: Steps
    ledger: Ledger
    measured: Measured
    powered: Bool
    """True where the power of the measured row's GPU is known."""
    measured_start: Int64
    measured_process: Int64
    shares: list[Shares]
    names: dict[int, tuple[str, str, str | None]]
    """Hash → (kind, name, node)."""


def load(name: str) -> str:
    """Return the join query `_join_<name>.sql`."""
    return (files("correlator") / "sql" / f"_join_{name}.sql").read_text("utf-8")


def find(query: Query, since_ns: int, until_ns: int) -> Found:
    """Return the shares of all GPU time of executions that began in [since_ns, until_ns)."""
    window = {"since_ns": since_ns, "until_ns": until_ns}
    read = {name: query(load(name), window) for name in ("kernel", "name", "member", "step", "power", "message")}
    names = _names(read["name"])
    engines = {code for code, (kind, _, _) in names.items() if kind == "engine"}
    engine_of = _engines(names, engines, query(load("family"), {}))
    kernels, steps = _kernels(read["kernel"], engine_of, read["message"], (since_ns, until_ns))
    teller = pa.array(_mapped(column(read["step"], "process"), engine_of))
    book = ledger.build(steps, read["member"], read["step"].append_column("engine", teller))
    measured, start, process = _measured(kernels, book)
    energy, powered = _energy(measured.gpu, start, measured.busy_ns, read["power"])
    measured = replace(measured, energy_nj=energy)
    return Found(steps, book, measured, powered, start, process, list(share(book.owners, measured)), names)


def _names(rows: pa.Table) -> dict[int, tuple[str, str, str | None]]:
    codes = column(rows, "code").tolist()
    columns = (rows[c].to_pylist() for c in ("kind", "name", "node"))
    return {code: (kind, name, node) for code, kind, name, node in zip(codes, *columns, strict=True)}


def _engines(names: dict[int, tuple[str, str, str | None]], engines: set[int], family: pa.Table) -> dict[int, int]:
    """Return the engine whose ledger holds for each process: its own, its parent's, or its parent's only other child's.

    Where no engine is known, it is the process by what it tells of steps.
    """
    parent = dict(zip(family["process_uid"].to_pylist(), family["parent_uid"].to_pylist(), strict=True))
    by_name = {names[code][1]: code for code in engines}
    telling = {name: code for code, (kind, name, _) in names.items() if kind == "teller"}
    found = {}
    for code, (kind, name, _) in names.items():
        if kind not in ("process", "teller"):
            continue
        siblings = [n for n in by_name if n != name and parent.get(n) is not None and parent.get(n) == parent.get(name)]
        near = [name, parent.get(name), *(siblings if len(siblings) == 1 else [])]
        found[code] = next((by_name[n] for n in near if n in by_name), telling.get(name, code))
    return found


def _kernels(
    rows: pa.Table, engine_of: dict[int, int], messages: pa.Table, window: tuple[int, int]
) -> tuple[Kernels, Steps]:
    process, gpu, start, end = (column(rows, c) for c in ("process", "gpu", "start_ns", "end_ns"))
    keep = _once(start, (gpu, end, process, column(rows, "identity")))
    busy = busy_time(_codes(gpu[keep]), start[keep], end[keep])
    inside = (start[keep] >= window[0]) & (start[keep] < window[1])
    keep, busy = keep[inside], busy[inside]
    process = process[keep]
    engine = _mapped(process, engine_of)
    ordinal, known = _nullable(rows, "ordinal", keep)
    launched = column(rows, "launched")[keep].astype(bool)
    evidence = np.zeros(len(keep), np.int8)
    if not known.all():
        told, sure = _by_messages(engine, end[keep], column(rows, "copies")[keep].astype(bool), messages)
        fresh = ~known & (told >= 0) & ~np.isin(engine, engine[known])
        ordinal, evidence = np.where(fresh, told, ordinal), np.where(fresh, sure, evidence).astype(np.int8)
        stamps = np.isin(process, process[known])
        known = known | fresh
    else:
        stamps = known
    outside = ledger.outside()
    found_engine, found_ordinal, place = _unique_pairs(engine[known], ordinal[known])
    steps = Steps(np.concatenate([outside.engine, found_engine]), np.concatenate([outside.ordinal, found_ordinal]))
    step = np.where(launched & stamps, 1, 0).astype(np.int64)
    step[known] = place + ledger.OUTSIDE
    kind = column(rows, "kind")[keep]
    return Kernels(process, gpu[keep], kind, start[keep], end[keep], busy, step, evidence), steps


def _once(start: Int64, others: tuple[Int64, ...]) -> Int64:
    """Return the rows that are not the same as another before them: what was stored twice counts once."""
    order = np.argsort(start, kind="stable")
    if not (np.diff(start[order]) == 0).any():
        return np.arange(len(start))
    order = np.lexsort((*others, start))
    again = np.zeros(len(order), bool)
    again[1:] = np.diff(start[order]) == 0
    for values in others:
        again[1:] &= np.diff(values[order]) == 0
    return np.sort(order[~again])


def _codes(values: Int64) -> Int64:
    """Return a small number for each of few different values, in their order."""
    unique: list[int] = []
    rest = values
    while len(rest):
        unique.append(int(rest[0]))
        rest = rest[rest != rest[0]]
    return np.searchsorted(np.sort(np.array(unique, np.int64)), values)


def _unique_pairs(engine: Int64, ordinal: Int64) -> tuple[Int64, Int64, Int64]:
    """Return the different pairs, sorted, and the place of each row's pair among them."""
    if not len(engine):
        return engine, ordinal, engine
    code, low = _codes(engine), ordinal.min()
    width = int(ordinal.max() - low) + 1
    unique, first, place = np.unique(code * width + (ordinal - low), return_index=True, return_inverse=True)
    del unique
    return engine[first], ordinal[first], place.reshape(-1)


def _nullable(rows: pa.Table, name: str, keep: Int64) -> tuple[Int64, np.ndarray]:
    values = rows[name].combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        return np.zeros(0, np.int64), np.zeros(0, bool)
    known = values.is_valid().to_numpy(zero_copy_only=False)[keep]
    return np.asarray(values.fill_null(-1).to_numpy(), np.int64)[keep], known


def _mapped(codes: Int64, to: dict[int, int]) -> Int64:
    result = codes.copy()
    for code, target in to.items():
        if code != target:
            result[codes == code] = target
    return result


def _by_messages(engine: Int64, end: Int64, copies: np.ndarray, messages: pa.Table) -> tuple[Int64, Int8]:
    """Return the step (number of a message) of executions whose launches name none, and how that is known.

    A step ends with the copy of its tokens to the host; then its message goes out. So an execution belongs to the first
    message after it, unless it ended after the last copy before that message: then to the next. Without copies the
    executions of the next step that ended before the message went out cannot be told apart. Where numbers are missing
    before a message, it has only what ran since the copy before its own: the rest was of steps that nobody told. A step that
    was only seen on the GPU begins after the copy before its first piece.
    """
    ordinal, evidence = np.full(len(engine), -1, np.int64), np.full(len(engine), ESTIMATED, np.int8)
    senders, sent, number, first = (column(messages, c) for c in ("engine", "time_ns", "ordinal", "first_end_ns"))
    for code in np.unique(engine).tolist():
        times, numbers, opened = (c[senders == code] for c in (sent, number, first))
        if not len(times):
            continue
        mine = np.flatnonzero(engine == code)
        copied = np.sort(end[mine][copies[mine]])
        last = np.searchsorted(copied, times) - 1
        bound = np.where(last >= 0, copied[np.maximum(last, 0)] if len(copied) else times, times)
        bound = np.where((opened == 0) & np.concatenate([[True], bound[1:] > times[:-1]]), bound, times)
        begin = np.full(len(bound), np.iinfo(np.int64).min)
        gap = np.flatnonzero(np.concatenate([opened[:1] > 0, np.diff(numbers) != 1]))
        if len(copied):
            before = np.searchsorted(copied, np.where(opened > 0, opened, bound)[gap]) - 1
            begin[gap] = np.where(before >= 0, copied[np.maximum(before, 0)], begin[gap])
        place = np.searchsorted(bound, end[mine])
        fits = (place < len(bound)) & (end[mine] > begin[np.minimum(place, len(bound) - 1)])
        ordinal[mine[fits]] = numbers[place[fits]]
        evidence[mine] = DERIVED if len(copied) else ESTIMATED
    return ordinal, evidence


def _measured(kernels: Kernels, book: Ledger) -> tuple[Measured, Int64, Int64]:
    """Add executions up by (stretch, process, step, GPU, class)."""
    stretch = kernels.start // STRETCH_NS
    key = stretch - stretch.min(initial=0)
    for values in (_codes(kernels.process), kernels.step, _codes(kernels.gpu), kernels.kind):
        key = key * (int(values.max(initial=0)) + 1) + values
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1) != 0)
    if not len(first):
        empty = np.zeros(0, np.int64)
        return Measured(empty, empty, empty, empty, empty, empty, empty.astype(np.int8)), empty, empty
    head = order[first]
    busy = np.add.reduceat(kernels.busy[order], first)
    start = np.minimum.reduceat(kernels.start[order], first)
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
    return measured, start, kernels.process[head]


def _energy(gpu: Int64, start: Int64, busy: Int64, power: pa.Table) -> tuple[Int64, Bool]:
    """Return the energy of busy time in nJ, by the last reading of its GPU's power before it, and where there is one."""
    energy, known = np.zeros(len(gpu), np.int64), np.zeros(len(gpu), bool)
    whose, at, watts = column(power, "gpu"), column(power, "time_ns"), power["value"].to_numpy()
    for code in np.unique(whose).tolist():
        times, values = at[whose == code], watts[whose == code]
        mine = gpu == code
        place = np.maximum(np.searchsorted(times, start[mine], side="right") - 1, 0)
        energy[mine] = np.round(busy[mine] * values[place]).astype(np.int64)
        known |= mine
    return energy, known


def rows(found: Found) -> pa.Table:
    """Return the rows of `share`: what went to nobody is left out, as it adds nothing."""
    names = found.names
    owners = words(
        found.ledger.owners.identity,
        np.arange(len(found.ledger.owners.identity)),
        lambda c: BUCKETS[-1 - c] if c < 0 else names[c][1],
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
            "node": words(found.measured_process, group, lambda c: names[c][2]),
            "process_uid": words(found.measured_process, group, lambda c: names[c][1]),
            "step_ordinal": pa.array(found.steps.ordinal[measured.step][group], mask=~inside[group]),
            "gpu_uuid": words(measured.gpu, group, lambda c: names[c][1]),
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
    unique, place = np.unique(codes, return_inverse=True)
    words = [word(c) for c in unique.tolist()]
    index = {w: i for i, w in enumerate(dict.fromkeys(w for w in words if w is not None))}
    of_code = np.array([index.get(w, -1) if w is not None else -1 for w in words], np.int32)
    indices = of_code[place.reshape(-1)][rows] if len(words) else np.zeros(0, np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(indices, mask=indices < 0), pa.array(list(index), pa.string()))


def _phases(codes: Int8) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32), mask=codes >= len(PHASES) - 1), pa.array(PHASES[:-1], pa.string())
    )


def _listed(codes: np.ndarray, words: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(words, pa.string()))
