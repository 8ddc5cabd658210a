"""Which spans are stored already: a foreign span that comes again in another batch is known by its trace id and span id.

A Bloom filter over a hash of both ids says "certainly new" of all new spans but two in a million, for some twenty
nanoseconds; for the others the store itself is asked, so that no new span is ever taken for a known one. Our own batches
need none of this: they have ids.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Keys = npt.NDArray[np.uint64]
"""One row per span: the two halves of its trace id, and its span id."""

Find = Callable[[Keys, int, int], Keys]
"""Returns the stored spans that have one of the span ids given and start within [low_ns, high_ns]."""

_WORDS = tuple(1 << bits for bits in (21, 23, 25))
"""Sizes of the filters, in words of 64 bits: the next is begun when the last holds a span for every four words."""
_SPANS_PER_WORD = 0.25
_BITS = np.arange(4096, dtype=np.uint64)
_PAIRS: Keys = np.uint64(1) << (_BITS & np.uint64(63)) | np.uint64(1) << (_BITS >> np.uint64(6))
"""For each 12 bits of a hash, the two bits of a word that they stand for."""
_CHUNK = 16384
"""Spans that are looked at together: what numpy makes on the way stays in the core's cache."""
_SLOTS_PER_SPAN, _MOST_SLOTS = 8, 1 << 21
_MIX = tuple(np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))


class SeenSpans:
    """The spans of one day. Takes 16 MiB, 80 from half a million spans on and 336 from 2.5 million on, never more.

    With 10 million spans, one new span of a million is asked about; with 100 million, one of a thousand.
    """

    def __init__(self) -> None:
        """Know of none; `add` what is stored before anything is asked."""
        self._filters = [_Filter(_WORDS[0])]
        self._asked = np.empty(0, np.uint64)

    def add(self, keys: Keys) -> None:
        """Note spans as stored."""
        self._add(_hashed(keys))

    def fresh(self, keys: Keys, start_ns: npt.NDArray[np.int64], find: Find) -> npt.NDArray[np.bool_]:
        """Return which of the spans are neither stored nor earlier among `keys`.

        Does not note them, as the transaction that stores them may fail: `stored` does.
        """
        hashed = _hashed(keys)
        hit = self._filters[0].has(hashed)
        for each in self._filters[1:]:
            hit |= each.has(hashed)
        fresh = ~_repeated(keys, hashed)
        if hit.any():
            asked = np.flatnonzero(hit)
            stored = find(keys[asked], int(start_ns[asked].min()), int(start_ns[asked].max()))
            fresh[asked] &= ~_among(keys[asked], stored)
        self._asked = hashed[fresh]
        return fresh

    def stored(self) -> None:
        """Note the spans that `fresh` found last."""
        self._add(self._asked)
        self._asked = np.empty(0, np.uint64)

    def _add(self, hashed: Keys) -> None:
        last = self._filters[-1]
        if last.spans >= last.room and len(self._filters) < len(_WORDS):
            last = _Filter(_WORDS[len(self._filters)])
            self._filters.append(last)
        last.add(hashed)


class _Filter:
    """A Bloom filter: six bits of one word stand for a span, so that a look costs one place in memory."""

    def __init__(self, words: int) -> None:
        self._map = np.zeros(words, np.uint64)
        self._shift = np.uint64(65 - words.bit_length())
        self.room = int(words * _SPANS_PER_WORD)
        self.spans = 0

    def has(self, hashed: Keys) -> npt.NDArray[np.bool_]:
        """Return which of the hashes may have been added."""
        found = np.empty(len(hashed), np.bool_)
        for begin in range(0, len(hashed), _CHUNK):
            word, mask = self._places(hashed[begin : begin + _CHUNK])
            found[begin : begin + _CHUNK] = self._map[word] & mask == mask
        return found

    def add(self, hashed: Keys) -> None:
        """Set the bits that stand for the hashes."""
        self.spans += len(hashed)
        for begin in range(0, len(hashed), _CHUNK):
            word, mask = self._places(hashed[begin : begin + _CHUNK])
            while len(
                word
            ):  # Of two masks for one word, a fancy-indexed |= keeps one: so again for those that are missing.
                self._map[word] |= mask
                missing = self._map[word] & mask != mask
                word, mask = word[missing], mask[missing]

    def _places(self, hashed: Keys) -> tuple[npt.NDArray[np.int64], Keys]:
        """Return the word and the bits in it that stand for each hash."""
        twelve = np.uint64(4095)
        parts = [(hashed >> np.uint64(shift) & twelve).view(np.int64) for shift in (0, 12, 24)]
        return (hashed >> self._shift).view(np.int64), _PAIRS[parts[0]] | _PAIRS[parts[1]] | _PAIRS[parts[2]]


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


def _repeated(keys: Keys, hashed: Keys) -> npt.NDArray[np.bool_]:
    """Return which keys stand earlier in the same array too.

    Each row writes its number into its slot and looks whose is there then: only rows that find one of another hash are
    sorted.
    """
    owner = _slots(len(keys))
    slot = (hashed & np.uint64(len(owner) - 1)).view(np.int64)
    number = np.arange(len(slot), dtype=np.int32)
    owner[slot] = number
    last = owner[slot]
    ousted = np.flatnonzero(last != number)
    alike = hashed[ousted] == hashed[last[ousted]]
    pairs = ousted[alike], last[ousted[alike]], _of_equal_hash(hashed, ousted[~alike])
    rows = np.unique(np.concatenate(pairs))
    repeated = np.zeros(len(slot), np.bool_)
    if len(rows):
        _, first = np.unique(_as_one(keys[rows]), return_index=True)
        repeated[rows] = True
        repeated[rows[first]] = False
    return repeated


_kept = threading.local()


def _slots(rows: int) -> npt.NDArray[np.int32]:
    """Return slots for so many rows, whatever they hold: this thread's own, as fresh memory costs more than all the rest."""
    wanted = min(1 << (_SLOTS_PER_SPAN * rows).bit_length(), _MOST_SLOTS)
    kept: npt.NDArray[np.int32] | None = getattr(_kept, "slots", None)
    if kept is None or len(kept) < wanted:
        kept = _kept.slots = np.empty(wanted, np.int32)
    return kept[:wanted]


def _of_equal_hash(hashed: Keys, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return those of the rows whose hash another of them has too."""
    order = rows[np.argsort(hashed[rows], kind="stable")]
    same = hashed[order[1:]] == hashed[order[:-1]]
    return np.concatenate([order[1:][same], order[:-1][same]])


def _among(keys: Keys, others: Keys) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isin(_as_one(keys), _as_one(others)), np.bool_)


def _as_one(keys: Keys) -> npt.NDArray[np.void]:
    """Return each key as one value that sorts and compares."""
    return np.ascontiguousarray(keys).view([("a", np.uint64), ("b", np.uint64), ("c", np.uint64)]).ravel()
