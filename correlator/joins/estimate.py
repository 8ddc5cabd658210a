"""Membership without the engine's word on it: from spans or sockets, and from step totals where those are known.

A request was in every step between two of its times, nobody says with how many tokens. Its prompt is spread over the
steps before its first token, evenly; or, where the totals of steps are known, so that both its prompt and each step's
prefill tokens come out right (iterative proportional fitting, Deming and Stephan 1940). Between first and last token it
got its tokens evenly, one a step. Every row is an estimate and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from correlator.joins.attribution import ESTIMATED, Int64
from correlator.joins.replay import Members

_ROUNDS = 30
BEFORE, FIRST, AFTER = range(3)
"""Where a row lies in its request: before the step that gave the first token, in it, after it."""


@dataclass(frozen=True, slots=True)
class Stay:
    """When requests were in an engine, one element each; times in ns of one clock."""

    scheduled: Int64
    first_token: Int64
    last_token: Int64
    prompt: Int64
    """Prompt tokens computed."""
    output: Int64


@dataclass(frozen=True, slots=True)
class Estimated:
    """The estimated step ledger; `place` and `chance` have an element for each row of it."""

    members: Members
    place: Int64
    """BEFORE, FIRST or AFTER."""
    chance: NDArray[np.float64]
    """Tokens for each step that the request may have been in after its first, at most 1: fewer tokens than steps mean that
    it was not in all of them."""


def estimate(
    stay: Stay, step_start: Int64, step_end: Int64, totals: Int64 | None, most_tokens: int | None = None
) -> Estimated:
    """Return the estimated step ledger; `totals` are each step's prefill tokens where they are known.

    Where `most_tokens` is given, `stay.scheduled` is only when a request arrived: it may have waited, and its prompt is
    taken to be computed in the last steps before its first token, as few as that many tokens a step allow.
    """
    count = len(step_start)
    # A token is told after the end of its step: it belongs to the last step that had ended. That one is sure.
    first = np.clip(np.searchsorted(step_end, stay.first_token, side="right") - 1, 0, max(count - 1, 0))
    last = np.clip(np.searchsorted(step_end, stay.last_token, side="right") - 1, first, max(count - 1, 0))
    low = np.minimum(np.searchsorted(step_start, stay.scheduled - 1), first)
    if most_tokens:
        low = np.maximum(low, first - (stay.prompt - 1) // most_tokens)
    if not count or not len(low):
        return Estimated(Members(*(np.zeros(0, np.int64) for _ in range(8))), np.zeros(0, np.int64), np.zeros(0))
    prefill = _prefill(stay, low, first, count, totals)
    decode = _decode(stay, first, last)
    members, once = _sorted([prefill, decode])
    tokens = np.minimum(np.maximum(stay.output - 1, 1) / np.maximum(last - first, 1), 1.0)
    place = np.concatenate(
        [np.where(prefill.step < first[prefill.request], BEFORE, FIRST), np.full(len(decode.step), AFTER)]
    )
    after = place[once] == AFTER
    return Estimated(members, place[once], np.where(after, tokens[members.request], 1.0))


def _spans(low: Int64, high: Int64) -> tuple[Int64, Int64]:
    """Return (row, step) for each step of [low, high) of each row."""
    lengths = np.maximum(high - low, 0)
    row = np.repeat(np.arange(len(low)), lengths)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(low, lengths)


def _prefill(stay: Stay, low: Int64, first: Int64, steps: int, totals: Int64 | None) -> Members:
    row, step = _spans(low, first + 1)
    if totals is not None:
        keep = (totals[step] > 0) | (step == first[row])
        row, step = row[keep], step[keep]
    per_row = np.bincount(row, minlength=len(low))
    value = stay.prompt[row] / np.maximum(per_row[row], 1)
    for _ in range(_ROUNDS if totals is not None else 0):
        assert totals is not None
        sums = np.bincount(row, value, minlength=len(low))
        value = value * np.where(sums > 0, stay.prompt / np.maximum(sums, 1e-9), 0)[row]
        sums = np.bincount(step, value, minlength=steps)
        value = value * np.where(sums > 0, totals / np.maximum(sums, 1e-9), 0)[step]
    tokens = np.maximum(np.round(value), 0).astype(np.int64)
    order = np.lexsort((step, row))
    row, step, tokens = row[order], step[order], tokens[order]
    running = np.cumsum(tokens) - tokens
    begin = np.searchsorted(row, np.arange(len(low)))
    context = running - running[np.minimum(begin, max(len(running) - 1, 0))][row] if len(row) else running
    return _rows(row, step, tokens, context, (step == first[row]).astype(np.int64))


def _decode(stay: Stay, first: Int64, last: Int64) -> Members:
    row, step = _spans(first + 1, last + 1)
    length = np.maximum(last - first, 1)[row]
    output = np.maximum(stay.output - 1, 0)[row]
    place = step - first[row]
    tokens = np.maximum(np.round(output * place / length) - np.round(output * (place - 1) / length), 1).astype(np.int64)
    tokens = np.where(output > 0, tokens, 1)
    context = stay.prompt[row] + (output * (place - 1) / length).astype(np.int64)
    return _rows(row, step, tokens, context, tokens)


def _rows(row: Int64, step: Int64, tokens: Int64, context: Int64, sampled: Int64) -> Members:
    keep = tokens > 0
    zeros = np.zeros(int(keep.sum()), np.int64)
    return Members(step[keep], row[keep], tokens[keep], context[keep], sampled[keep], zeros, zeros, zeros + ESTIMATED)


def _sorted(parts: list[Members]) -> tuple[Members, Int64]:
    """Return the rows of all parts by step and request, each pair once, and which they were."""
    joined = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Members)}
    order = np.lexsort((joined["request"], joined["step"]))
    again = (np.diff(joined["step"][order], prepend=-1) == 0) & (np.diff(joined["request"][order], prepend=-1) == 0)
    once = order[~again]
    return Members(**{n: c[once] for n, c in joined.items()}), once
