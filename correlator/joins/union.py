"""Connected components over arrays: the union-find of the identity join, without a loop over rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def components(count: int, left: Int64, right: Int64) -> Int64:
    """Return for each of `count` nodes the least node of its component, edges joining `left[i]` and `right[i]`.

    Min-label hooking with pointer jumping (Shiloach and Vishkin, 1982): a logarithmic number of passes over the edges.
    """
    label = np.arange(count, dtype=np.int64)
    while len(left):
        low = np.minimum(label[left], label[right])
        np.minimum.at(label, label[left], low)
        np.minimum.at(label, label[right], low)
        while True:
            jumped = label[label]
            if (jumped == label).all():
                break
            label = jumped
        open_edges = label[left] != label[right]
        left, right = left[open_edges], right[open_edges]
    return label


def star(codes: Int64) -> tuple[Int64, Int64]:
    """Return edges that join all rows of equal code, rows with a negative code left alone: each to its group's first."""
    rows = np.flatnonzero(codes >= 0)
    rows = rows[np.argsort(codes[rows], kind="stable")]
    group = codes[rows]
    heads = np.concatenate([[True], group[1:] != group[:-1]]) if len(rows) else np.zeros(0, bool)
    first = rows[heads]
    return np.repeat(first, np.diff(np.append(np.flatnonzero(heads), len(rows)))), rows


def codes(values: pa.Array | pa.ChunkedArray) -> Int64:
    """Return a number for each text, equal for equal texts, -1 for NULL and the empty text."""
    plain = values.cast(pa.string()) if pa.types.is_dictionary(values.type) else values
    encoded = pc.dictionary_encode(pc.if_else(pc.equal(plain, ""), None, plain))
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # No chunk at all.
        return np.zeros(0, np.int64)
    return np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def pair_codes(first: Int64, second: Int64) -> Int64:
    """Return one code for each pair of codes, -1 where either is missing."""
    if not len(first):
        return first
    joined = first * (second.max(initial=0) + 1) + second
    return np.where((first < 0) | (second < 0), -1, joined)


def count_distinct(group: Int64, value: Int64, groups: int) -> Int64:
    """Return how many different values, negative ones aside, each of `groups` groups holds."""
    found, _ = different(group, value)
    return np.bincount(found, minlength=groups)


def different(group: Int64, value: Int64) -> tuple[Int64, Int64]:
    """Return the different pairs, negative groups and values aside, sorted: as one number each, which is much quicker."""
    known = (value >= 0) & (group >= 0)
    group, value = group[known], value[known]
    names = value[:0]
    if int(value.max(initial=0)) >= (1 << 62) // (int(group.max(initial=0)) + 1):
        names, value = np.unique(value, return_inverse=True)
    width = int(value.max(initial=0)) + 1
    pairs = np.unique(group * width + value)
    group, value = pairs // width, pairs % width
    return group, names[value] if len(names) else value
