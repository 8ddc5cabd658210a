"""Who owns the GPU time of an engine step: shares in whole nanoseconds that sum to what was measured, exactly.

The time of one (step, GPU, class) is shared by weights of its class over the step's owners, which are the requests of the
batch and, where the step has them, the buckets: rows that the model computed for padding, a step that no request
caused, tokens of members that no source saw. Each owner gets the floor of its part; the nanoseconds left over go to the
largest remainders, ties to the owner that comes first. Owners come in the order of their ids, so that the order in
which rows arrived cannot matter.

Weights [Sarathi-Serve and the roofline of attention; the measure of how much the choice matters is in README.md]:
`dense` work is per token row; `attention` reads the context for a decoded token and multiplies for a prefilled chunk, so
it weighs the larger of the two; `sampling` is per row sampled. A class whose weights are all zero falls back to tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Int8 = NDArray[np.int8]

CLASSES = ("dense", "attention", "sampling")
"""Classes of weights, in the order of their codes."""
DENSE, ATTENTION, SAMPLING = range(len(CLASSES))

CLASS_OF_KERNEL = {"attention": ATTENTION, "sampling": SAMPLING}
"""Class of weights by a kernel's class; every other kernel is dense."""

EVIDENCE = ("exact", "derived", "estimated", "unknown")
"""Kinds of evidence from strong to weak: the evidence of a chain is the largest code in it."""
EXACT, DERIVED, ESTIMATED, UNKNOWN = range(len(EVIDENCE))

BUCKETS = ("__padding__", "__dummy__", "__unattributed__", "__overhead__")
"""Owners that are no request; the identity of `BUCKETS[i]` in arrays is `-1 - i`."""
PADDING, DUMMY, UNATTRIBUTED, OVERHEAD = (-1 - i for i in range(len(BUCKETS)))

READ_COST = 40
"""Cost of reading one context token from memory, in units of one query-key product of a prefill. The ratio is
(KV bytes per token / memory bandwidth) / (attention FLOPs per pair / peak): 39 ns / 0.9 ns for an 8 B model with 8
of 32 KV heads on an H100 at a usual 60 % of peak; it is between 20 and 80 for common models."""

_ROWS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Owners:
    """The owners of many steps, those of step i at rows `offsets[i]:offsets[i + 1]`, in the order of their ids.

    `identity` is the caller's number of a request, or a bucket's. All arrays but `offsets` have one element an owner.
    """

    offsets: Int64
    identity: Int64
    scheduled: Int64
    """Tokens scheduled; for padding, the padded rows."""
    context: Int64
    """Tokens computed before the step."""
    sampled: Int64
    """Tokens put out."""
    evidence: Int8


@dataclass(frozen=True, slots=True)
class Measured:
    """GPU time by (step, GPU, class), one element each; `step` indexes `Owners.offsets`."""

    step: Int64
    gpu: Int64
    kind: Int64
    """Code of the class of weights."""
    kernel_ns: Int64
    busy_ns: Int64
    energy_nj: Int64
    evidence: Int8

    def take(self, rows: Int64 | slice) -> Self:
        """Return the elements `rows` of every array."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of measured time, one element for each (measured row, owner): `measured` and `owner` are row numbers."""

    measured: Int64
    owner: Int64
    share_ns: Int64
    busy_ns: Int64
    energy_nj: Int64
    evidence: Int8
    by_class: Bool
    """False where the class had no weights and tokens were used."""


def allocate(totals: Int64, weights: Int64, offsets: Int64) -> Int64:
    """Share each of `totals` by `weights[offsets[i]:offsets[i + 1]]`; return one whole number a weight.

    Parts of a total sum to it exactly by the method of largest remainders (Hamilton), ties to the first. Totals and
    weights are not negative. A segment without weight gets zeros: its total stays with the caller.
    """
    counts = np.diff(offsets)
    weights = _fitted(weights, offsets, counts)
    sums = _segment_sums(weights, offsets)
    divisor = np.repeat(np.maximum(sums, 1), counts)
    total = np.repeat(totals, counts)
    parts = (total.astype(np.float64) * weights / divisor).astype(np.int64)
    # Wrapping products: the true remainder fits 64 bits although the product may not, so it comes out exact.
    remainder = total * weights - parts * divisor
    if totals.max(initial=0) < 2**50:  # Then the floor in doubles is wrong by one at most, and no division is needed.
        carry = (remainder >= divisor).astype(np.int64) - (remainder < 0)
    else:
        carry = np.floor_divide(remainder, divisor)
    parts += carry
    remainder -= carry * divisor
    left = np.where(sums > 0, totals - _segment_sums(parts, offsets), 0)
    return _give_remainders(parts, remainder, left, offsets, counts)


def _fitted(weights: Int64, offsets: Int64, counts: Int64) -> Int64:
    """Scale down the segments whose sum could pass 2**44, so that the floor in doubles is within exact correction."""
    bits = np.ceil(np.log2(np.maximum(weights, 1).astype(np.float64) * np.repeat(np.maximum(counts, 1), counts)))
    if not len(bits) or bits.max() <= 44:
        return weights
    shift = np.maximum(np.maximum.reduceat(bits, offsets[:-1][counts > 0]) - 44, 0).astype(np.int64)
    wide = np.zeros(len(counts), np.int64)
    wide[counts > 0] = shift
    spread = np.repeat(wide, counts)
    return np.where((weights > 0) & (spread > 0), np.maximum(weights >> spread, 1), weights)


def _segment_sums(values: Int64, offsets: Int64) -> Int64:
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
    sums: Int64 = running[offsets[1:]] - running[offsets[:-1]]  # Exact even where the running sum wrapped.
    return sums


def _give_remainders(parts: Int64, remainder: Int64, left: Int64, offsets: Int64, counts: Int64) -> Int64:
    """Add one to the `left[i]` largest remainders of each segment; segments of one length are done together."""
    open_segments = np.flatnonzero(left > 0)
    order = open_segments[np.argsort(counts[open_segments], kind="stable")]
    lengths = counts[order]
    cuts = np.flatnonzero(np.diff(lengths)) + 1
    for same in np.split(order, cuts) if len(order) else []:
        length = int(counts[same[0]])
        places = offsets[same][:, None] + np.arange(length)
        rows = remainder[places]
        need = left[same][:, None]
        threshold = np.take_along_axis(np.sort(rows, axis=1), length - need, axis=1)
        above = rows > threshold
        ties = rows == threshold
        spare = need - above.sum(axis=1, keepdims=True)
        parts[places] += above | (ties & (np.cumsum(ties, axis=1) <= spare))
    return parts


def class_weights(owners: Owners) -> Int64:
    """Return the weight of every owner row in every class, shape (classes, rows)."""
    tokens, context = owners.scheduled, owners.context
    attention = np.maximum(tokens * (2 * context + tokens + 1), 2 * READ_COST * (context + tokens))
    attention[(tokens <= 0) | (owners.identity == PADDING)] = 0  # Padded rows attend to nothing.
    weights = np.empty((len(CLASSES), len(tokens)), np.int64)
    weights[DENSE], weights[ATTENTION], weights[SAMPLING] = tokens, attention, owners.sampled
    return weights


def share(owners: Owners, measured: Measured) -> Iterator[Shares]:
    """Yield the shares of all measured time, some million rows at a time, in the order of `measured`.

    Every step must have an owner with tokens (`complete` in membership.py adds the bucket of a step without any);
    then the shares of each measured row sum to its kernel_ns, busy_ns and energy_nj exactly.
    """
    weights = class_weights(owners)
    counts = np.diff(owners.offsets)[measured.step]
    total = np.cumsum(counts)
    start = 0
    while start < len(counts):
        base = int(total[start - 1]) if start else 0
        stop = max(int(np.searchsorted(total, base + _ROWS_AT_ONCE, side="right")), start + 1)
        yield _share_some(owners, weights, measured.take(slice(start, stop)), start)
        start = stop


def _share_some(owners: Owners, by_class: Int64, measured: Measured, base: int) -> Shares:
    counts = np.diff(owners.offsets)[measured.step]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    segment = np.repeat(np.arange(len(counts)), counts)
    rows = np.repeat(owners.offsets[measured.step] - offsets[:-1], counts) + np.arange(offsets[-1])
    weights = by_class.reshape(-1)[np.repeat(measured.kind * by_class.shape[1], counts) + rows]
    empty = _segment_sums(weights, offsets) == 0
    without = empty[segment]
    if empty.any():
        weights = np.where(without, owners.scheduled[rows], weights)
    kernel = allocate(measured.kernel_ns, weights, offsets)
    same = np.array_equal(measured.busy_ns, measured.kernel_ns)  # Where nothing overlaps, they are.
    return Shares(
        segment + base,
        rows,
        kernel,
        kernel if same else allocate(measured.busy_ns, weights, offsets),
        allocate(measured.energy_nj, weights, offsets) if measured.energy_nj.any() else np.zeros_like(kernel),
        np.maximum(owners.evidence[rows], measured.evidence[segment]),
        ~without,
    )
