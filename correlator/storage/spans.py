"""Which spans are stored already: a foreign span that comes again in another batch is known by its trace id and span id.

A Bloom filter over a hash of both ids says "certainly new" of all new spans but one in a million, for some twenty
nanoseconds; for the others the store itself is asked, so that no new span is ever taken for a known one. Our own batches
need none of this: they have ids.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline import built

Keys = npt.NDArray[np.uint64]
"""One row per span: the two halves of its trace id, and its span id."""

Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

Find = Callable[[Keys, int, int], Keys]
"""Returns the stored spans that have one of the span ids given and start within [low_ns, high_ns]."""

_WORDS = tuple(1 << bits for bits in (21, 23, 25))
"""Sizes of the filters, in words of 64 bits: the next is begun when the last holds a span for every word."""
_LINE = 8
"""Words that the core's cache takes at once."""
_PAGE = 512
"""Words of a page of memory."""
_BITS = np.arange(4096, dtype=np.uint64)
_PAIRS: Keys = np.uint64(1) << (_BITS & np.uint64(63)) | np.uint64(1) << (_BITS >> np.uint64(6))
"""For each 12 bits of a hash, the two bits of a word that they stand for."""
_CHUNK = 16384
"""Spans that are looked at together: what numpy makes on the way stays in the core's cache."""
_MIX = tuple(np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))


def _load() -> Any:
    path = built.library("correlator.storage._seen", Path(__file__).parent)
    if path is None:
        return None
    try:  # Python's lock is kept: what is asked at a time takes less than giving it up does.
        function = ctypes.PyDLL(path).warpline_seen
    except (OSError, AttributeError):  # Not for this machine.
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes, function.restype = [pointer, number, pointer, number, number, pointer], None
    return function


_seen = _load()


class SeenSpans:
    """The spans of one day. Takes 16 MiB, 80 at two million spans and 336 from ten million on, never more.

    Memory for the next filter is taken while the second half of the last one fills, in the measure of the spans that come:
    taken when it begins, 256 MiB cost the write that came then 0.3 s of the core's time.
    With 10 million spans, one new span of a million is asked about; with 100 million, one of a thousand.
    """

    def __init__(self) -> None:
        """Know of none; `add` what is stored before anything is asked."""
        self._filters = [_Filter(_WORDS[0])]
        self._next: _Filter | None = None

    def add(self, rows: pa.Table) -> Flags:
        """Note spans, and return which of them may have been noted before, those earlier among them included."""
        hashed = _hashes(rows)
        self._grow(len(hashed))
        known = np.zeros(len(hashed), np.bool_)
        for each in self._filters[:-1]:
            each.look(hashed, known)
        self._filters[-1].note(hashed, known)
        return known

    def _grow(self, spans: int) -> None:
        last = self._filters[-1]
        if not last.is_half_full or len(self._filters) == len(_WORDS):
            return
        if self._next is None:
            self._next = _Filter(_WORDS[len(self._filters)])
        if last.is_full:
            self._filters.append(self._next)
            self._next = None
        else:
            self._next.take_memory(2 * spans * self._next.size // last.size)

    def fresh(self, parts: Sequence[pa.Table], find: Find) -> list[Flags]:
        """Return which of the spans in each part are neither stored nor earlier among the parts, and note all of them.

        Where the transaction that stores them fails they stay noted: the store is asked for them when they come again.
        """
        known = [self.add(rows) for rows in parts]
        if not any(each.any() for each in known):
            return [~each for each in known]
        keys = np.concatenate([keys_of(rows) for rows in parts])
        start_ns = np.concatenate([rows["start_ns"].to_numpy() for rows in parts])
        fresh = _fresh(keys, start_ns, np.flatnonzero(np.concatenate(known)), find)
        return np.split(fresh, np.cumsum([len(each) for each in known])[:-1])


def _fresh(keys: Keys, start_ns: npt.NDArray[np.int64], asked: npt.NDArray[np.int64], find: Find) -> Flags:
    """Return which of the spans are new, where only those `asked` may be stored or stand earlier."""
    hashed = _hashed(keys[:, 0], keys[:, 1], keys[:, 2])
    alike = np.flatnonzero(np.isin(hashed, hashed[asked]))
    _, first = np.unique(_as_one(keys[alike]), return_index=True)
    fresh = np.ones(len(keys), np.bool_)
    fresh[alike] = False
    fresh[alike[first]] = True
    stored = find(keys[asked], int(start_ns[asked].min()), int(start_ns[asked].max()))
    fresh[asked] &= ~_among(keys[asked], stored)
    return fresh


class _Filter:
    """A Bloom filter: four bits in each of two words of one line stand for a span, so that a look costs one place in memory.

    A line in place of a word: with 64 bits for a span it errs as seldom as a word did with 256.
    """

    def __init__(self, words: int) -> None:
        self._map = np.zeros(words, np.uint64)
        self._shift = np.uint64(65 - (words // _LINE).bit_length())
        self._spans = self._taken = 0

    @property
    def size(self) -> int:
        """Words of 64 bits."""
        return len(self._map)

    @property
    def is_half_full(self) -> bool:
        """Whether it is time to make ready the next."""
        return 2 * self._spans >= len(self._map)

    @property
    def is_full(self) -> bool:
        """Whether it holds as many spans as it may to err seldom."""
        return self._spans >= len(self._map)

    def take_memory(self, words: int) -> None:
        """Have the system give memory for so many words more: zeros have none until they are written."""
        self._map[self._taken : self._taken + words : _PAGE] = 0
        self._taken += -(-words // _PAGE) * _PAGE

    def look(self, hashed: Hashes, known: Flags) -> None:
        """Set in `known` which of the hashes may have been noted."""
        self._go(hashed, known, False)

    def note(self, hashed: Hashes, known: Flags) -> None:
        """Set in `known` which of the hashes may have been noted, and note them all."""
        self._spans += len(hashed)
        self._go(hashed, known, True)

    def _go(self, hashed: Hashes, known: Flags, note: bool) -> None:
        if _seen is not None:
            map_, hashes, flags = self._map.ctypes.data, hashed.ctypes.data, known.ctypes.data
            _seen(map_, int(self._shift), hashes, len(hashed), note, flags)
            return
        for begin in range(0, len(hashed), _CHUNK):
            chunk = hashed[begin : begin + _CHUNK]
            places = self._places(chunk)
            found = np.logical_and.reduce([self._map[word] & mask == mask for word, mask in places])
            if note:
                found |= _repeated(chunk)
                for word, mask in places:
                    np.bitwise_or.at(self._map, word, mask)
            known[begin : begin + _CHUNK] |= found

    def _places(self, hashed: Hashes) -> list[tuple[npt.NDArray[np.int64], Keys]]:
        """Return the two words that stand for each hash, and the bits in them."""
        line, place = (hashed >> self._shift) * np.uint64(_LINE), hashed >> np.uint64(24) & np.uint64(7)
        other = place ^ (hashed >> np.uint64(27) & np.uint64(7) | np.uint64(1))
        spread = hashed * _MIX[1] >> np.uint64(40)
        return [((line + place).view(np.int64), _four(hashed)), ((line + other).view(np.int64), _four(spread))]


def _four(bits: Hashes) -> Keys:
    twelve = np.uint64(4095)
    return np.asarray(_PAIRS[bits & twelve] | _PAIRS[bits >> np.uint64(12) & twelve], np.uint64)


def _repeated(hashed: Hashes) -> Flags:
    _, first = np.unique(hashed, return_index=True)
    repeated = np.ones(len(hashed), np.bool_)
    repeated[first] = False
    return repeated


def keys_of(rows: pa.Table) -> Keys:
    """Return the keys of spans from their columns: `trace_id`, 16 bytes each, and `span_id`, a number."""
    keys = np.empty((rows.num_rows, 3), np.uint64)
    at = 0
    for batch in rows.select(["trace_id", "span_id"]).to_batches():
        part = keys[at : at + batch.num_rows]
        part[:, :2], part[:, 2] = _halves(batch["trace_id"]), batch["span_id"].to_numpy()
        at += batch.num_rows
    return keys


def _halves(trace_ids: pa.Array) -> Keys:
    flat = trace_ids.storage if isinstance(trace_ids.type, pa.BaseExtensionType) else trace_ids
    plain = flat if pa.types.is_fixed_size_binary(flat.type) else flat.cast(pa.binary(16))
    halves = np.frombuffer(plain.buffers()[1] or b"", np.uint64)
    return halves[2 * plain.offset : 2 * (plain.offset + len(plain))].reshape(-1, 2)


def _hashes(rows: pa.Table) -> Hashes:
    hashed = np.empty(rows.num_rows, np.uint64)
    at = 0
    for batch in rows.select(["trace_id", "span_id"]).to_batches(max_chunksize=_CHUNK):
        halves = _halves(batch["trace_id"])
        hashed[at : at + batch.num_rows] = _hashed(halves[:, 0], halves[:, 1], batch["span_id"].to_numpy())
        at += batch.num_rows
    return hashed


def _hashed(high: Hashes, low: Hashes, span: Hashes) -> Hashes:
    mixed = high * _MIX[0] ^ low * _MIX[1] ^ span * _MIX[2]
    mixed ^= mixed >> np.uint64(32)
    mixed *= _MIX[0]
    return np.asarray(mixed, np.uint64)


def _among(keys: Keys, others: Keys) -> Flags:
    return np.asarray(np.isin(_as_one(keys), _as_one(others)), np.bool_)


def _as_one(keys: Keys) -> npt.NDArray[np.void]:
    """Return each key as one value that sorts and compares."""
    return np.ascontiguousarray(keys).view([("a", np.uint64), ("b", np.uint64), ("c", np.uint64)]).ravel()
