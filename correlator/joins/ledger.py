"""The owners of each step, as arrays that attribution takes: members by the best level, and the buckets beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from correlator.joins.attribution import (
    DERIVED,
    DUMMY,
    ESTIMATED,
    EXACT,
    OVERHEAD,
    PADDING,
    UNATTRIBUTED,
    UNKNOWN,
    Bool,
    Int8,
    Int64,
    Owners,
)

LEVEL_EVIDENCE = np.array([EXACT, DERIVED, DERIVED, ESTIMATED, ESTIMATED, ESTIMATED, ESTIMATED], np.int8)
"""How complete a level's list of a step's members is, by the level's place in membership.LEVELS: the wire never shows a
finished request's last, idle step, and Triton may trace only some of its requests."""
OUTSIDE = 2
"""How many of the first steps stand for time outside steps."""
_NONE = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps by number: engine (hash, as int64) and ordinal; the first two stand for time outside steps."""

    engine: Int64
    ordinal: Int64


@dataclass(frozen=True, slots=True)
class Ledger:
    """The owners of `Steps`, and what is known of each step and owner besides."""

    owners: Owners
    phase: Int8
    """Phase by owner; 4 for none."""
    completeness: Int8
    """Evidence of the list of owners, by step."""


@dataclass(frozen=True, slots=True)
class _Rows:
    step: Int64
    identity: Int64
    scheduled: Int64
    context: Int64
    sampled: Int64
    evidence: Int8
    phase: Int8


def numbers(steps: Steps, engine: Int64, ordinal: Int64) -> Int64:
    """Return the number of each (engine, ordinal), -1 where there is no such step. `steps` are sorted by both."""
    if not len(steps.engine):
        return np.full(len(engine), -1, np.int64)
    engines, code = np.unique(steps.engine, return_inverse=True)
    at = np.searchsorted(engines, engine)
    known = (at < len(engines)) & (engines[np.minimum(at, len(engines) - 1)] == engine)
    low, high = ordinal.min(initial=0), int(max(ordinal.max(initial=0), steps.ordinal.max(initial=0)))
    width = high - min(int(low), int(steps.ordinal.min(initial=0))) + 1
    base = min(int(low), int(steps.ordinal.min(initial=0)))
    keys = code * width + (steps.ordinal - base)
    wanted = at * width + (ordinal - base)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(known & (keys[place] == wanted), place, -1)


def build(steps: Steps, members: pa.Table, owner: Int64, told: pa.Table) -> Ledger:
    """Return the ledger of `steps` from rows of the join queries `_join_member` and `_join_step`, this with `engine`;
    `owner` has the identity of each member's request."""
    count = len(steps.engine)
    said = _told(steps, told, count)
    rows, completeness = _members(steps, members, owner, said.disagree, count)
    extra = _buckets(steps, rows, said, count)
    step = np.concatenate([rows.step, *(b.step for b in extra)])
    identity = np.concatenate([rows.identity, *(b.identity for b in extra)])
    order = np.argsort(step, kind="stable")  # In each step members come in the order of their ids, then buckets.
    joined = {
        f: np.concatenate([getattr(rows, f), *(getattr(b, f) for b in extra)])[order]
        for f in ("scheduled", "context", "sampled", "evidence", "phase")
    }
    offsets = np.searchsorted(step[order], np.arange(count + 1)).astype(np.int64)
    owners = Owners(
        offsets, identity[order], joined["scheduled"], joined["context"], joined["sampled"], joined["evidence"]
    )
    return Ledger(owners, joined["phase"], completeness)


def _members(steps: Steps, members: pa.Table, owner: Int64, disagree: Bool, count: int) -> tuple[_Rows, Int8]:
    """Return each step's members by its best level, each once, and how complete the list is.

    A step whose ranks disagree on who was in it has none: which of them to believe is not for us to guess.
    """
    step = numbers(steps, column(members, "engine"), column(members, "ordinal"))
    step = np.where(disagree[step], -1, step)
    level = column(members, "level")
    best = np.full(count + 1, 99, np.int64)
    np.minimum.at(best, step, level)
    keep = np.flatnonzero((step >= 0) & (level == best[step]))
    owner = owner[keep]
    order = np.argsort(step[keep] * (int(owner.max(initial=0)) + 1) + owner, kind="stable")
    keep, owner = keep[order], owner[order]
    once = (
        np.concatenate([[True], (np.diff(owner) != 0) | (np.diff(step[keep]) != 0)]) if len(keep) else np.zeros(0, bool)
    )
    keep, owner = keep[once], owner[once]
    completeness = np.where(
        best[:-1] < 99, LEVEL_EVIDENCE[np.minimum(best[:-1], len(LEVEL_EVIDENCE) - 1)], EXACT
    ).astype(np.int8)
    return (
        _Rows(
            step[keep],
            owner,
            column(members, "scheduled")[keep],
            column(members, "context")[keep],
            column(members, "sampled")[keep],
            column(members, "evidence")[keep].astype(np.int8),
            column(members, "phase")[keep].astype(np.int8),
        ),
        completeness,
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """What engines say of their steps in total, by step and once more for no step."""

    padded: Int64
    scheduled: Int64
    dummy: Bool
    disagree: Bool


def _told(steps: Steps, told: pa.Table, count: int) -> _Told:
    step = numbers(steps, column(told, "engine"), column(told, "ordinal"))
    padded, scheduled = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    dummy = np.zeros(count + 1, bool)
    least, most = np.full(count + 1, np.iinfo(np.int64).max), np.full(count + 1, -1, np.int64)
    np.maximum.at(padded, step, column(told, "padded"))
    np.maximum.at(scheduled, step, column(told, "scheduled"))
    np.logical_or.at(dummy, step, column(told, "dummy").astype(bool))
    np.minimum.at(least, step, column(told, "least_hash"))
    np.maximum.at(most, step, column(told, "most_hash"))
    disagree = least < most
    disagree[-1] = False
    return _Told(padded, scheduled, dummy, disagree)


def _buckets(steps: Steps, rows: _Rows, told: _Told, count: int) -> list[_Rows]:
    known = np.bincount(rows.step, rows.scheduled, minlength=count).astype(np.int64)
    number = np.bincount(rows.step, minlength=count)
    context = np.bincount(rows.step, rows.context, minlength=count) / np.maximum(number, 1)
    padded, dummy = told.padded[:-1], told.dummy[:-1]
    inside = steps.engine != _NONE
    missing = np.maximum(told.scheduled[:-1] - known, 0)
    alone = inside & (known + missing == 0)
    unknown = np.flatnonzero(inside & ~dummy & ((missing > 0) | alone))
    unseen = np.flatnonzero(inside & (padded > known + missing) & (known > 0))
    return [
        _bucket(unknown, UNATTRIBUTED, np.maximum(missing[unknown], 1), context[unknown].astype(np.int64)),
        _bucket(unseen, PADDING, (padded - known - missing)[unseen]),
        _bucket(np.flatnonzero(inside & dummy & (known == 0)), DUMMY),
        _bucket(np.flatnonzero(~inside & (steps.ordinal == 0)), UNATTRIBUTED),
        _bucket(np.flatnonzero(~inside & (steps.ordinal == 1)), OVERHEAD),
    ]


def _bucket(step: Int64, identity: int, tokens: Int64 | int = 1, context: Int64 | int = 0) -> _Rows:
    whole = np.zeros(len(step), np.int64)
    sampled = whole + (1 if identity == UNATTRIBUTED else 0)
    small = np.zeros(len(step), np.int8)
    evidence = small + (UNKNOWN if identity == UNATTRIBUTED else EXACT)
    return _Rows(step, whole + identity, whole + tokens, whole + context, sampled, evidence, small + 4)


def outside() -> Steps:
    """Return the two steps that stand for time outside steps: of unknown origin, and of a launch outside any step."""
    return Steps(np.full(OUTSIDE, _NONE, np.int64), np.arange(OUTSIDE, dtype=np.int64))


def column(rows: pa.Table, name: str) -> Int64:
    """Return a column of a join query as int64; hashes keep their bits, shifted to 63 so that they are not negative."""
    values = rows[name].combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        return np.zeros(0, np.int64)
    if values.type == pa.uint64():
        halved: Int64 = (values.to_numpy() >> np.uint64(1)).astype(np.int64)
        return halved
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.int64)
