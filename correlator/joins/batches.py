"""Step ledgers from batches that engines name themselves: SGLang's batch ids, and Triton's windows of computation.

Both say which requests were one batch, and when. Which executions were the batch's follows from their launches: SGLang's
scheduler schedules and launches in one thread, so that what it launches before the next batch is of this one; Triton's
backend launches inside the window. What either rule leaves open is left out here: a piece of GPU work more than a batch
usually has (its own batch was lost), windows that overlap, a thread number that two processes have.

A piece is what the GPU ran up to a copy (`_join_copy_step.sql`). All pieces of a batch bear the number of its first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from correlator.joins.attribution import DERIVED, ESTIMATED, EVIDENCE, Bool, Int64
from correlator.joins.executions import Query, load
from correlator.joins.membership import CONFIDENCE
from correlator.joins.union import codes
from warpline import schema

_MODES = ("prefill", "decode")
_PHASES = ("prefill", "decode", "recompute")


@dataclass(frozen=True, slots=True)
class Ledger:
    """Rows of `step_member` and, for the same steps, of `engine_step`; and which pieces of which process they cover."""

    members: pa.RecordBatch
    steps: pa.RecordBatch
    process_uid: str
    covered: Int64


@dataclass(frozen=True, slots=True)
class _Pieces:
    """GPU work of one process between copies, in the order of its launches."""

    about: dict[str, str | None]
    ordinal: Int64
    start: Int64
    end: Int64
    launched: Bool


@dataclass(frozen=True, slots=True)
class _Told:
    """Who was in each batch: one element a (batch, request), batches in the order of their times."""

    name: pa.Array
    batch: Int64
    tokens: Int64
    context: Int64
    sampled: Bool
    phase: Int64
    """Place in `_PHASES`, -1 where the engine has none."""
    sure: Bool
    """False where the number of tokens is a guess."""


def from_batches(query: Query, window: dict[str, int], steps: pa.Table) -> list[Ledger]:
    """Return ledgers of SGLang's schedulers from their traces; `steps` are rows of the join query `_join_copy_step`."""
    told = query(load("batch"), window)
    if not len(told):
        return []
    threads, wall = query(load("thread"), window), query(load("wall"), window)
    runners = pc.unique(steps["process_uid"].cast(pa.string())).to_pylist()
    key = codes(pc.binary_join_element_wise(told["sender"], told["thread_id"].cast(pa.string()), "/"))
    found = []
    for each in np.unique(key).tolist():
        rows = told.filter(pa.array(key == each))
        runner = _launcher(rows, threads, runners, alone=int(key.max()) == 0)
        if runner is not None:
            pieces = _pieces(steps, runner)
            found.append(_by_batch(rows, pieces, _ahead(wall, pieces)))
    return found


def from_windows(query: Query, window: dict[str, int], steps: pa.Table) -> list[Ledger]:
    """Return ledgers of Triton servers from windows in which requests were computed; `steps` as for `from_batches`."""
    told = query(load("window"), window)
    nodes = dict(zip(steps["process_uid"].to_pylist(), steps["node"].to_pylist(), strict=True))
    found = []
    for node in pc.unique(told["node"].cast(pa.string())).to_pylist():
        runners = [r for r, at in nodes.items() if node in (None, at)]
        if len(runners) == 1:  # A trace does not say which process made it: of several none is chosen.
            mine = pc.equal(told["node"].cast(pa.string()), node) if node else pc.is_null(told["node"])
            pieces = _pieces(steps, runners[0])
            found.append(_by_window(told.filter(mine), pieces, _ahead(query(load("wall"), window), pieces)))
    return found


def _launcher(told: pa.Table, threads: pa.Table, runners: list[str], alone: bool) -> str | None:
    """Return the process whose thread wrote `told`: the only one with launches of that thread, else the only one at all."""
    thread, node = told["thread_id"][0].as_py(), told["node"][0].as_py()
    rows = zip(*(threads[c].to_pylist() for c in ("thread_id", "node", "process_uid")), strict=True)
    mine = {uid for number, at, uid in rows if number == thread and node in (None, at) and uid in runners}
    if not mine and alone:
        mine = set(runners)
    return mine.pop() if len(mine) == 1 else None


def _pieces(steps: pa.Table, runner: str) -> _Pieces:
    mine = steps.filter(pc.equal(steps["process_uid"].cast(pa.string()), runner)).sort_by("start_ns")
    about = {"process_uid": runner, "node": mine["node"][0].as_py()}
    start, end, ordinal = (mine[c].to_numpy() for c in ("start_ns", "end_ns", "ordinal"))
    return _Pieces(about, ordinal, start, end, np.asarray(mine["launched"].to_numpy(), bool))


def _ahead(wall: pa.Table, pieces: _Pieces) -> tuple[Int64, Int64]:
    """Return readings of what the wall clock of the pieces' node is ahead of node time: (times, differences)."""
    mine = wall.filter(pc.equal(wall["node"].cast(pa.string()), pieces.about["node"] or ""))
    if not len(mine):
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    return mine["time_ns"].to_numpy(), mine["ahead_ns"].to_numpy()


def _node_time(wall_ns: Int64, ahead: tuple[Int64, Int64]) -> Int64:
    """Return node times of wall times, by the reading nearest before each."""
    times, differences = ahead
    place = np.searchsorted(times + differences, wall_ns, side="right") - 1
    return wall_ns - differences[np.maximum(place, 0)]


def _by_batch(told: pa.Table, pieces: _Pieces, ahead: tuple[Int64, Int64]) -> Ledger:
    """Give each batch the pieces that were launched after it was scheduled and before the next one was."""
    told = told.sort_by([("time_ns", "ascending"), ("batch", "ascending"), ("internal_id", "ascending")])
    batch, first = _numbered(told["batch"])
    begin = _node_time(told["time_ns"].to_numpy()[first], ahead)
    order = np.argsort(begin, kind="stable")
    decode = _equals(told["mode"], "decode")
    place = order[np.searchsorted(begin[order], pieces.start, side="right") - 1]
    place = np.where(pieces.start < begin.min(), -1, place)
    place = np.where(_usual(place, decode[first].astype(np.int64)), place, -1)
    known = np.flatnonzero(pc.is_valid(told["internal_id"]).to_numpy(zero_copy_only=False))
    rows = _members(told.take(pa.array(known)), batch[known], begin, decode[known])
    size = told["requests"].fill_null(0).to_numpy()[first]
    return _ledger(rows, pieces, place, "batches", (size, decode[first]))


def _usual(place: Int64, mode: Int64) -> Bool:
    """Say which pieces are among as many as batches of their mode mostly have: the others are of a batch that was lost."""
    counts = np.bincount(place[place >= 0], minlength=len(mode))
    usual = np.array([_most_common(counts[(mode == m) & (counts > 0)]) for m in range(len(_MODES))])
    order = np.argsort(place, kind="stable")
    rank = np.empty(len(place), np.int64)
    rank[order] = np.arange(len(place)) - np.searchsorted(place[order], place[order])
    found: Bool = (place >= 0) & (rank < usual[mode[np.maximum(place, 0)]])
    return found


def _most_common(counts: Int64) -> int:
    return int(np.bincount(counts).argmax()) if len(counts) else 0


def _members(told: pa.Table, batch: Int64, begin: Int64, decode: Bool) -> _Told:
    """Return each member's tokens: one for a decode; for a prompt what the cache did not have, over its batches evenly.

    SGLang calls a batch of chunks and decodes a prefill: what comes after a request's first decode is a decode then too.
    Once such a batch is seen, no prefill of that scheduler is told from one surely.
    """
    names = told["internal_id"].cast(pa.string()).combine_chunks()
    request = codes(names)
    order = np.lexsort((begin[batch], request))
    prompt = told["prompt_tokens"].fill_null(1).to_numpy()[order]
    cached = np.minimum(told["cached_tokens"].fill_null(0).to_numpy()[order], prompt)
    retracts = told["retracts"].to_numpy()[order]
    first = _changes(request[order])
    life = first | _changes(retracts)
    decodes = decode[order] | (_running(decode[order].astype(np.int64), life) > 0)
    mixed = bool((decodes & ~decode[order]).any())
    number = np.cumsum(life) - 1
    # Each prefill gives a token too: that of a life before is part of what is computed again.
    done = _running(decodes.astype(np.int64), first) + number - np.maximum.accumulate(np.where(first, number, 0))
    again = ~decodes & (retracts > 0)
    chunk = _running((~decodes).astype(np.int64), life)
    chunks = np.bincount(number, ~decodes).astype(np.int64)[number] if len(order) else chunk
    had = np.where(again, 0, cached)
    need = np.maximum(prompt + np.where(again, done, 0) - had, 1)
    parts = np.maximum(chunks, 1)
    low, high = need * chunk // parts, need * (chunk + 1) // parts
    drafts = np.asarray(told["drafts"].to_numpy(), bool)[order]
    back = np.argsort(order, kind="stable")
    return _Told(
        name=names,
        batch=batch,
        tokens=np.where(decodes, 1, np.maximum(high - low, 1))[back],
        context=np.where(decodes, prompt + done, had + low)[back],
        sampled=(decodes | (chunk + 1 == chunks))[back],
        phase=np.where(decodes, 1, np.where(again, 2, 0))[back],
        sure=np.where(decode[order], ~drafts, (chunks == 1) & ~again & (not mixed))[back],
    )


def _changes(values: Int64) -> Bool:
    return np.concatenate([[True], np.diff(values) != 0]) if len(values) else np.zeros(0, bool)


def _running(values: Int64, fresh: Bool) -> Int64:
    """Return the sum of the values before each one since the last fresh one."""
    before = np.cumsum(values) - values
    begin = np.maximum.accumulate(np.where(fresh, np.arange(len(values)), 0))
    return before - before[begin] if len(values) else before


def _by_window(told: pa.Table, pieces: _Pieces, ahead: tuple[Int64, Int64]) -> Ledger:
    """Give each window the pieces that were launched and ended in it, where no other window was open meanwhile."""
    batch, first = _numbered(told["batch"])
    wall = _equals(told["wall"], "true")[first]
    begin, end = (told[c].to_numpy()[first] for c in ("start_ns", "end_ns"))
    begin = np.where(wall, _node_time(begin, ahead), begin)
    end = np.where(wall, _node_time(end, ahead), end)
    order = np.argsort(begin, kind="stable")
    opened = np.searchsorted(begin[order], pieces.end)
    alone = opened - np.searchsorted(np.sort(end), pieces.start, side="right") == 1
    place = order[np.maximum(opened - 1, 0)]
    inside = alone & (begin[place] <= pieces.start) & (pieces.end <= end[place])
    count = len(batch)
    ones, zeros = np.ones(count, np.int64), np.zeros(count, np.int64)
    names = told["internal_id"].cast(pa.string()).combine_chunks()
    rows = _Told(names, batch, ones, zeros, zeros > 0, zeros - 1, ones > 0)
    size = np.bincount(batch, minlength=len(begin))
    return _ledger(rows, pieces, np.where(inside, place, -1), "windows", (size, None))


def _ledger(told: _Told, pieces: _Pieces, place: Int64, level: str, whole: tuple[Int64, Bool | None]) -> Ledger:
    """Return the rows of all batches that have a piece. `whole` are the sizes of the batches that their engine told, and
    which are decodes; None where it knows no tokens."""
    size, decode = whole
    piece = np.flatnonzero(place >= 0)
    head, end, launched = np.full(len(size), len(place)), np.zeros(len(size), np.int64), np.ones(len(size), bool)
    np.minimum.at(head, place[piece], piece)
    np.maximum.at(end, place[piece], pieces.end[piece])
    np.logical_and.at(launched, place[piece], pieces.launched[piece])
    row = np.flatnonzero(head[told.batch] < len(place))
    batch = told.batch[row]
    evidence = np.where(told.sure[row] & launched[batch], DERIVED, ESTIMATED)
    again = told.phase[row] == _PHASES.index("recompute")
    members = schema.table("step_member").batch(
        {
            **pieces.about,
            "time_ns": end[batch],
            "step_ordinal": pieces.ordinal[head[batch]],
            "internal_id": told.name.take(pa.array(row)),
            "scheduled_tokens": told.tokens[row],
            "computed_before_tokens": told.context[row],
            "draft_tokens": 0,
            "accepted_tokens": 0,
            "recomputed_tokens": np.where(again, told.tokens[row], 0),
            "sampled": told.sampled[row],
            "phase": pa.array(_PHASES).take(pa.array(told.phase[row], mask=told.phase[row] < 0)),
            "level": level,
            "evidence": pa.array(EVIDENCE).take(pa.array(evidence)),
            "confidence": np.array(CONFIDENCE[level])[evidence],
        },
        rows=len(row),
    )
    steps = _steps(told, pieces, head, end, (size, decode))
    return Ledger(members, steps, str(pieces.about["process_uid"]), pieces.ordinal[piece])


def _steps(told: _Told, pieces: _Pieces, head: Int64, end: Int64, whole: tuple[Int64, Bool | None]) -> pa.RecordBatch:
    """Return a row for each batch that ran: its size as told, its tokens as if members that were not seen were as others."""
    size, decode = whole
    ran = np.flatnonzero(head < len(pieces.start))
    seen = np.bincount(told.batch, minlength=len(size))
    tokens = np.bincount(told.batch, told.tokens, minlength=len(size))
    total = np.round(tokens * np.maximum(size, seen) / np.maximum(seen, 1)).astype(np.int64)[ran]
    known = {}
    if decode is not None:
        prompts, decodes = np.where(decode[ran], 0, total), np.where(decode[ran], total, 0)
        known = {"context_tokens": prompts, "generation_tokens": decodes, "scheduled_tokens": total}
    columns = {
        **pieces.about,
        **known,
        "start_ns": pieces.start[head[ran]],
        "end_ns": end[ran],
        "ordinal": pieces.ordinal[head[ran]],
        "requests": np.maximum(size, seen)[ran],
        "observed_by": "triton_windows" if decode is None else "sglang_batches",
    }
    return schema.table("engine_step").batch(columns, rows=len(ran))


def _numbered(batches: pa.ChunkedArray) -> tuple[Int64, Int64]:
    """Return each row's batch as a number, in the order of their first rows, and those rows."""
    _, first, place = np.unique(codes(batches), return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return number[place.reshape(-1)], first[order]


def _equals(column: pa.ChunkedArray, word: str) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(column.cast(pa.string()), word).fill_null(False).to_numpy(zero_copy_only=False), bool)
