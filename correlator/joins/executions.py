"""GPU executions of a stretch of time and the steps that they are of: by their launches, else by the engine's messages.

An execution meets its launch by (process, session, correlation id), in numpy: as a join of texts in SQL it was two thirds of
what reading executions cost. What is found for an execution depends on rows at a bounded distance from it alone, never on
the window that is looked at, so that any window gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa

from correlator.joins import ledger
from correlator.joins.attribution import DERIVED, ESTIMATED, Bool, Int8, Int64
from correlator.joins.busy import busy_time
from correlator.joins.ledger import Steps, column

STRETCH_NS = 1_000_000_000
"""Results are cut into stretches of this length, by the start of an execution."""
LAP_NS = 5_000_000_000
"""How long an execution shares the GPU's busy time with others at most: what it takes beyond is its own. Without a bound,
how long each one was busy would depend on how much of the time around it is looked at."""
LOOKBACK_S = 60
"""How long before an execution its launch is looked for, and whether its process names its steps at all."""
_AROUND = 5_000_000_000 // STRETCH_NS
"""Stretches before and after one in which members make their engine known to it."""
_MESSAGE_NS = 60_000_000_000
"""Longest time from the end of an execution to the message of its step."""

Query = Callable[[str, Mapping[str, Any]], pa.Table]
"""Runs one SELECT: `Store.query`."""
Window = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Kernels:
    """Executions as arrays; `step` is a number in `Steps`."""

    process: Int64
    gpu: Int64
    kind: Int64
    start: Int64
    end: Int64
    busy: Int64
    step: Int64
    evidence: Int8

    @property
    def stretch(self) -> Int64:
        """Number of the stretch that each begins in."""
        return self.start // STRETCH_NS


@dataclass(frozen=True, slots=True)
class Told:
    """The engines of which the ledger has members around a stretch, and the processes that told of steps."""

    engines: frozenset[int] = frozenset()
    tellers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Names:
    """What hashes stand for, and which engines are known in which stretch."""

    process: dict[int, tuple[str, str | None]]
    """Hash of a process → its name and node."""
    gpu: dict[int, str]
    engine: dict[int, str]
    engines_in: dict[int, Told]
    """Stretch → who tells something of steps around it."""
    parent: dict[str, str | None]
    """Process → its parent, by their names."""


def load(name: str) -> str:
    """Return the join query `_join_<name>.sql`."""
    return (files("correlator") / "sql" / f"_join_{name}.sql").read_text("utf-8")


def names(query: Query, window: Window) -> Names:
    """Return the names of what executed, and of the engines of which the ledger tells something, in a window."""
    places = query(load("place"), {"since_ns": window[0], "until_ns": window[1]})
    process, gpu = column(places, "process").tolist(), column(places, "gpu").tolist()
    return replace(
        engines(query, window),
        process=dict(
            zip(process, zip(*(places[c].to_pylist() for c in ("process_uid", "node")), strict=True), strict=True)
        ),
        gpu=dict(zip(gpu, places["gpu_uuid"].to_pylist(), strict=True)),
    )


def engines(query: Query, window: Window) -> Names:
    """Return the names of the engines of which the ledger tells something in a window, without those of what executed."""
    told = query(load("engine"), {"since_ns": window[0], "until_ns": window[1], "stretch_ns": STRETCH_NS})
    family = query(load("family"), {})
    engine, at, teller = column(told, "code"), column(told, "stretch"), column(told, "teller").astype(bool)
    return Names(
        {},
        {},
        dict(zip(engine.tolist(), told["process_uid"].to_pylist(), strict=True)),
        {
            n: Told(*(frozenset(engine[each & (np.abs(at - n) <= _AROUND)].tolist()) for each in (~teller, teller)))
            for n in range(window[0] // STRETCH_NS, -(-window[1] // STRETCH_NS))
        },
        dict(zip(family["process_uid"].to_pylist(), family["parent_uid"].to_pylist(), strict=True)),
    )


def find(query: Query, window: Window, known: Names) -> tuple[Kernels, Steps]:
    """Return the executions that began in `window`, each once, and their steps."""
    bound = {"since_ns": window[0], "until_ns": window[1]}
    rows = _beside(query, query(load("kernel"), bound), window)
    rows = rows.take(pa.array(_kept(query, rows, bound)))
    process, gpu, start, end = (column(rows, c) for c in ("process", "gpu", "start_ns", "end_ns"))
    near = np.minimum(end, start + LAP_NS)
    busy = busy_time(codes(gpu), start, near) + (end - near)
    inside = np.flatnonzero((start >= window[0]) & (start < window[1]))
    rows, busy = rows.take(pa.array(inside)), busy[inside]
    process, gpu, start, end = process[inside], gpu[inside], start[inside], end[inside]
    ordinal, told, launched = _launches(query, rows, bound)
    stretch = start // STRETCH_NS
    engine = _engines(process, stretch, known)
    evidence, overhead = np.zeros(len(start), np.int8), launched
    if not told.all():
        stamps = query(load("stamp"), {**bound, "stretch_ns": STRETCH_NS})
        names_steps = _recent(process, stretch, column(stamps, "process"), column(stamps, "stretch"))
        overhead = launched & names_steps
        silent = ~_recent(engine, stretch, _engines_of(stamps, known), column(stamps, "stretch"))
        found, sure = by_messages(engine, end, _copies(query, window, known), query(load("message"), bound))
        fresh = ~told & silent & (found >= 0)
        ordinal, told = np.where(fresh, found, ordinal), told | fresh
        evidence = np.where(fresh, sure, evidence).astype(np.int8)
    step, steps = _numbered(engine, ordinal, told, overhead)
    return Kernels(process, gpu, column(rows, "kind"), start, end, busy, step, evidence), steps


def _beside(query: Query, rows: pa.Table, window: Window) -> pa.Table:
    """Return rows with those that begin after the window while one of its own still runs: they share its busy time."""
    last = min(int(column(rows, "end_ns").max(initial=0)), window[1] + LAP_NS)
    if last <= window[1]:
        return rows
    after = query(load("kernel"), {"since_ns": window[1], "until_ns": last})
    return pa.concat_tables([rows, after.filter(pa.array(column(after, "start_ns") >= window[1]))])


def _kept(query: Query, rows: pa.Table, bound: dict[str, int]) -> Int64:
    """Return the rows to keep: each execution once, and no graph's record where its executions were recorded."""
    start = column(rows, "start_ns")
    keep = _once(start, tuple(column(rows, c) for c in ("gpu", "end_ns", "process", "identity")))
    graph = column(rows, "graph")[keep] > 0
    if graph.any():
        nodes = query(load("node"), bound)
        whole, part = _keys(rows.take(pa.array(keep)), nodes)
        keep = keep[~(graph & np.isin(whole, part))]
    return keep


def _once(start: Int64, others: tuple[Int64, ...]) -> Int64:
    """Return the rows that are not the same as another before them: what was stored twice counts once."""
    order = np.argsort(start, kind="stable")
    tied = np.diff(start[order]) == 0
    if not tied.any():
        return np.arange(len(start))
    near = order[np.concatenate([tied, [False]]) | np.concatenate([[False], tied])]
    near = near[np.lexsort((*(values[near] for values in others), start[near]))]
    again = np.ones(len(near), bool)
    again[0] = False
    for values in (start, *others):
        again[1:] &= np.diff(values[near]) == 0
    keep = np.ones(len(start), bool)
    keep[near[again]] = False
    return np.flatnonzero(keep)


def codes(values: Int64) -> Int64:
    """Return a small number for each of few different values, in their order."""
    return np.searchsorted(_few(values), values)


def _few(values: Int64) -> Int64:
    """Return the different ones of values of which few differ, sorted."""
    unique: list[int] = []
    rest = values
    while len(rest):
        unique.append(int(rest[0]))
        rest = rest[rest != rest[0]]
    return np.sort(np.array(unique, np.int64))


def _keys(left: pa.Table, right: pa.Table) -> tuple[Int64, Int64]:
    """Return for each row of both one number for its process, session and correlation id; -1 where there is none."""
    keys = [np.zeros(len(left), np.int64), np.zeros(len(right), np.int64)]
    missing = [column(rows, "correlation") < 0 for rows in (left, right)]
    for name in ("process", "session", "correlation"):
        one, other = column(left, name), column(right, name)
        if name == "correlation":
            low = min(one.min(initial=0), other.min(initial=0))
            one, other = one - low, other - low
        else:
            different = np.union1d(_few(one), _few(other))
            one, other = np.searchsorted(different, one), np.searchsorted(different, other)
        width = int(max(one.max(initial=0), other.max(initial=0))) + 1
        keys = [keys[0] * width + one, keys[1] * width + other]
    return np.where(missing[0], -1, keys[0]), np.where(missing[1], -1, keys[1])


def _launches(query: Query, rows: pa.Table, bound: dict[str, int]) -> tuple[Int64, Bool, Bool]:
    """Return the step of each execution, whether its own record or its launch told it, and whether its launch is known."""
    own = rows["ordinal"].combine_chunks()
    told = np.asarray(own.is_valid().to_numpy(zero_copy_only=False), bool)
    ordinal = np.asarray(own.fill_null(-1).to_numpy(), np.int64)
    ids = column(rows, "correlation")
    ids = ids[ids >= 0]
    if not len(ids):
        return ordinal, told, np.zeros(len(told), bool)
    launches = query(load("launch"), {**bound, "low": int(ids.min()), "high": int(ids.max())})
    whose, key = _keys(rows, launches)
    if not len(key):
        return ordinal, told, np.zeros(len(told), bool)
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-2) != 0)
    missing = np.iinfo(np.int64).max
    said = np.asarray(launches["ordinal"].combine_chunks().fill_null(missing).to_numpy(), np.int64)
    said, key = np.minimum.reduceat(said[order], first), key[order[first]]
    place = np.minimum(np.searchsorted(key, whose), len(key) - 1)
    launched = (whose >= 0) & (key[place] == whose)
    fresh = launched & ~told & (said[place] != missing)
    return np.where(fresh, said[place], ordinal), told | fresh, launched


def _engines(process: Int64, stretch: Int64, known: Names) -> Int64:
    """Return the engine whose ledger holds for each execution: by its process, and by the engines known around it."""
    if not len(process):
        return process
    groups: dict[Told, list[int]] = {}
    for number in np.unique(stretch).tolist():
        groups.setdefault(known.engines_in.get(number, Told()), []).append(number)
    result = process.copy()
    for told, numbers in groups.items():
        inside = np.isin(stretch, numbers) if len(groups) > 1 else np.ones(len(stretch), bool)
        for code, engine in _engine_of(told, known).items():
            result[inside & (process == code)] = engine
    return result


def engines_by_name(process: pa.ChunkedArray, stretch: Int64, known: Names) -> Int64:
    """Return the engine whose ledger holds for each process, by its name, in its stretch; -1 where there is none."""
    encoded = process.combine_chunks().dictionary_encode()
    code, words = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64), encoded.dictionary.to_pylist()
    result = np.full(len(code), -1, np.int64)
    for number in np.unique(stretch).tolist():
        inside, told = stretch == number, known.engines_in.get(number, Told())
        for which in np.unique(code[inside]).tolist():
            engine = near(words[which], told, known)
            result[inside & (code == which)] = -1 if engine is None else engine
    return result


def _engine_of(told: Told, known: Names) -> dict[int, int]:
    """Return the engine of each process: itself, its parent, or its parent's only other child; where none is known, the
    process by what it tells of steps."""
    telling = {known.engine[code]: code for code in sorted(told.tellers)}
    return {code: near(name, told, known) or telling.get(name, code) for code, (name, _) in known.process.items()}


def near(name: str, told: Told, known: Names) -> int | None:
    """Return the engine whose ledger holds for the process of a name."""
    by_name = {known.engine[code]: code for code in sorted(told.engines)}
    parent = known.parent.get(name)
    siblings = [n for n in by_name if n != name and parent is not None and known.parent.get(n) == parent]
    family = [name, parent, *(siblings if len(siblings) == 1 else [])]
    return next((by_name[n] for n in family if n in by_name), None)


def engines_of_tellers(process: Int64, known: Names) -> Int64:
    """Return the engine of each process that tells of steps."""
    told = Told(frozenset().union(*(each.engines for each in known.engines_in.values())))
    result = process.copy()
    for code in np.unique(process).tolist():
        result[process == code] = near(known.engine.get(code, ""), told, known) or code
    return result


def _engines_of(stamps: pa.Table, known: Names) -> Int64:
    return _engines(column(stamps, "process"), column(stamps, "stretch"), known)


def _recent(whose: Int64, stretch: Int64, seen: Int64, seen_in: Int64) -> Bool:
    """Say of which rows `whose` was seen in their stretch or in the minute before it."""
    found = np.zeros(len(whose), bool)
    back = LOOKBACK_S * 1_000_000_000 // STRETCH_NS
    for code in np.unique(seen).tolist():
        numbers, mine = np.sort(seen_in[seen == code]), np.flatnonzero(whose == code)
        last = np.searchsorted(numbers, stretch[mine], side="right") - 1
        found[mine] = (last >= 0) & (stretch[mine] - numbers[np.maximum(last, 0)] <= back)
    return found


def _copies(query: Query, window: Window, known: Names) -> tuple[Int64, Int64]:
    """Return engine and end of copies around a window."""
    rows = query(load("copy"), {"since_ns": window[0], "until_ns": window[1]})
    end = column(rows, "end_ns")
    near = np.clip(end, window[0], window[1] - 1) // STRETCH_NS
    return _engines(column(rows, "process"), near, known), end


def by_messages(engine: Int64, end: Int64, copies: tuple[Int64, Int64], messages: pa.Table) -> tuple[Int64, Int8]:
    """Return the step (number of a message) of executions whose launches name none, and how that is known.

    A step ends with the copy of its tokens to the host; then its message goes out. So an execution belongs to the first
    message after it, unless it ended after the last copy before that message: then to the next. Without copies the
    executions of the next step that ended before the message went out cannot be told apart. Where numbers are missing
    before a message, it has only what ran since the copy before its own: the rest was of steps that nobody told. A step that
    was only seen on the GPU begins after the copy before its first piece. `copies` are engine and end of each.
    """
    ordinal, evidence = np.full(len(engine), -1, np.int64), np.full(len(engine), ESTIMATED, np.int8)
    senders, sent, number, first = (column(messages, c) for c in ("engine", "time_ns", "ordinal", "first_end_ns"))
    for code in np.unique(engine).tolist():
        times, numbers, opened = (c[senders == code] for c in (sent, number, first))
        if not len(times):
            continue
        mine = np.flatnonzero(engine == code)
        copied = np.sort(copies[1][copies[0] == code])
        last = np.searchsorted(copied, times) - 1
        bound = np.where(last >= 0, copied[np.maximum(last, 0)] if len(copied) else times, times)
        bound = np.where((opened == 0) & np.concatenate([[True], bound[1:] > times[:-1]]), bound, times)
        begin = np.full(len(bound), np.iinfo(np.int64).min)
        gap = np.flatnonzero(np.concatenate([opened[:1] > 0, np.diff(numbers) != 1]))
        if len(copied):
            before = np.searchsorted(copied, np.where(opened > 0, opened, bound)[gap]) - 1
            begin[gap] = np.where(before >= 0, copied[np.maximum(before, 0)], begin[gap])
        place = np.searchsorted(bound, end[mine])
        at = np.minimum(place, len(bound) - 1)
        fits = (place < len(bound)) & (end[mine] > begin[at]) & (times[at] <= end[mine] + _MESSAGE_NS)
        ordinal[mine[fits]] = numbers[place[fits]]
        evidence[mine] = DERIVED if len(copied) else ESTIMATED
    return ordinal, evidence


def _numbered(engine: Int64, ordinal: Int64, told: Bool, overhead: Bool) -> tuple[Int64, Steps]:
    """Return each execution's step as a number, and the steps by number."""
    outside = ledger.outside()
    found_engine, found_ordinal, place = _unique_pairs(engine[told], ordinal[told])
    steps = Steps(np.concatenate([outside.engine, found_engine]), np.concatenate([outside.ordinal, found_ordinal]))
    step = np.where(overhead, 1, 0).astype(np.int64)
    step[told] = place + ledger.OUTSIDE
    return step, steps


def _unique_pairs(engine: Int64, ordinal: Int64) -> tuple[Int64, Int64, Int64]:
    """Return the different pairs, sorted, and the place of each row's pair among them."""
    if not len(engine):
        return engine, ordinal, engine
    unique = _few(engine)
    low = int(ordinal.min())
    width = int(ordinal.max()) - low + 1
    key = np.searchsorted(unique, engine) * width + (ordinal - low)
    order = np.argsort(key, kind="stable")  # Executions come nearly in the order of their steps: then this is quick.
    fresh = np.diff(key[order], prepend=-1) != 0
    place = np.empty(len(key), np.int64)
    place[order] = np.cumsum(fresh) - 1
    different = key[order[fresh]]
    return unique[different // width], different % width + low, place
