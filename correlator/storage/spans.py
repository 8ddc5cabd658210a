"""Which spans are stored already: a foreign span that comes again in another batch is known by its trace id and span id.

A bitmap over a hash of both ids says "certainly new" of nearly every span for some ten nanoseconds; for the few others the
store itself is asked, so that no new span is ever taken for a known one. Our own batches need none of this: they have ids.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_BITS = 27
_SLOTS = 22
_MIX = tuple(np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))

Keys = npt.NDArray[np.uint64]
"""One row per span: the two halves of its trace id, and its span id."""

Find = Callable[[Keys, int, int], Keys]
"""Returns the stored spans that have one of the span ids given and start within [low_ns, high_ns]."""


class SeenSpans:
    """The spans of one day. Takes 16 MiB, whatever their number; with 10 million, 7 % of new spans are asked about."""

    def __init__(self) -> None:
        """Know of none; `add` what is stored before anything is asked."""
        self._map = np.zeros(1 << (_BITS - 3), np.uint8)

    def add(self, keys: Keys) -> None:
        """Note spans as stored."""
        byte, bit = _places(_hashed(keys))
        while len(byte):  # Of two bits for one byte, a fancy-indexed |= keeps one: so again for those that are missing.
            self._map[byte] |= bit
            missing = self._map[byte] & bit == 0
            byte, bit = byte[missing], bit[missing]

    def fresh(self, keys: Keys, start_ns: npt.NDArray[np.int64], find: Find) -> npt.NDArray[np.bool_]:
        """Return which of the spans are neither stored nor earlier among `keys`.

        Does not note them: the transaction that stores them may fail.
        """
        hashed = _hashed(keys)
        byte, bit = _places(hashed)
        hit = self._map[byte] & bit != 0
        fresh = ~_repeated(keys, hashed)
        if hit.any():
            asked = np.flatnonzero(hit)
            stored = find(keys[asked], int(start_ns[asked].min()), int(start_ns[asked].max()))
            fresh[asked] &= ~_among(keys[asked], stored)
        return fresh


def keys_of(trace_ids: pa.ChunkedArray, span_ids: pa.ChunkedArray) -> Keys:
    """Return the keys of spans from their columns: trace ids as 16 bytes each, span ids as numbers."""
    flat = trace_ids.combine_chunks() if isinstance(trace_ids, pa.ChunkedArray) else trace_ids
    if isinstance(flat.type, pa.BaseExtensionType):
        flat = flat.storage
    plain = flat if pa.types.is_fixed_size_binary(flat.type) else flat.cast(pa.binary(16))
    keys = np.empty((len(plain), 3), np.uint64)
    if len(plain):
        halves = np.frombuffer(plain.buffers()[1], np.uint64)
        keys[:, :2] = halves[2 * plain.offset : 2 * (plain.offset + len(plain))].reshape(-1, 2)
        keys[:, 2] = span_ids.to_numpy()
    return keys


def _hashed(keys: Keys) -> Keys:
    mixed = keys[:, 0] * _MIX[0] ^ keys[:, 1] * _MIX[1] ^ keys[:, 2] * _MIX[2]
    mixed ^= mixed >> np.uint64(32)
    mixed *= _MIX[0]
    return np.asarray(mixed, np.uint64)


def _places(hashed: Keys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Return the byte and the bit in it that stand for each hash in the bitmap."""
    place = hashed >> np.uint64(64 - _BITS)
    return (place >> np.uint64(3)).astype(np.int64), np.uint8(1) << (place & np.uint64(7)).astype(np.uint8)


def _repeated(keys: Keys, hashed: Keys) -> npt.NDArray[np.bool_]:
    """Return which keys stand earlier in the same array too.

    Each row writes its number into its slot and looks whether it is still there: only rows of slots that several share
    are sorted.
    """
    slot = (hashed & np.uint64((1 << _SLOTS) - 1)).astype(np.int64)
    number = np.arange(len(slot), dtype=np.int32)
    owner = np.empty(1 << _SLOTS, np.int32)
    owner[slot] = number
    shared = np.zeros(1 << _SLOTS, np.bool_)
    shared[slot[owner[slot] != number]] = True
    rows = _of_equal_hash(hashed, np.flatnonzero(shared[slot]))
    repeated = np.zeros(len(slot), np.bool_)
    if len(rows):
        _, first = np.unique(_as_one(keys[rows]), return_index=True)
        repeated[rows] = True
        repeated[rows[first]] = False
    return repeated


def _of_equal_hash(hashed: Keys, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return those of the rows whose hash another of them has too, in ascending order."""
    order = rows[np.argsort(hashed[rows], kind="stable")]
    same = hashed[order[1:]] == hashed[order[:-1]]
    return np.unique(np.concatenate([order[1:][same], order[:-1][same]]))


def _among(keys: Keys, others: Keys) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isin(_as_one(keys), _as_one(others)), np.bool_)


def _as_one(keys: Keys) -> npt.NDArray[np.void]:
    """Return each key as one value that sorts and compares."""
    return np.ascontiguousarray(keys).view([("a", np.uint64), ("b", np.uint64), ("c", np.uint64)]).ravel()
