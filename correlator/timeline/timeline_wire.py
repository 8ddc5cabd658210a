"""A chunk of a timeline as bytes: 8 bytes a bar, so that a window of a million executions is some hundred kilobytes.

All numbers are little-endian. `bucket` is 2^level ns; positions count in eighths of a bucket from the chunk's start. Numbers
of 16 bits lie as all their low bytes and then all their high ones, and a position as what it is beyond the one before it,
modulo 2^16: a third less to send once it is packed, and a quarter less time to pack it.

    uint32 × 6        magic "WLT2", bars, rows, length of the names, level, and 0; or, while the scope is still being read,
                      1 + thousandths that were: the chunk is then of the whole scope, whatever was asked for
    uint64 × rows     row ids
    uint64 × rows     bars of the row in the window, before any were drawn together
    uint64 × rows     their busy time in ns, exactly
    uint32 × rows+1   where each row's bars begin; the last is their number
    uint16 × bars     position, beyond the bar before        uint16 × bars   width
    uint16 × bars     index of the longest one's name
    uint8 × bars      share of the width that was busy, 255 = all
    uint8 × bars      0 for a bar drawn to scale, else 1 + 8 · log2(how many are drawn together)
    UTF-8             JSON: names, each [name, class, own] (own: 0 unknown, 1 this request's step, 2 another's)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from correlator.timeline.timeline_lod import Drawn

MAGIC = 0x32544C57
TILE_BUCKETS = 512
MAX_TILES = 8
PARTS = 8
"""Parts of a bucket that positions count in: 8 tiles are 32,768 of them, well inside 16 bits."""

_DENSITY_STEPS = 32


Names = Callable[[int], list[Any]]
"""Says [name, class, own] of a label."""


@dataclass(frozen=True)
class _Bars:
    """How each drawn thing stands in the chunk."""

    position: np.ndarray
    width: np.ndarray
    density: np.ndarray
    whole: np.ndarray


def encode(
    drawn: Drawn, names: Names, row_ids: np.ndarray, since_ns: int, level: int, read: float | None = None
) -> bytes:
    """Return what is drawn of a window as a chunk.

    `since_ns` is the window's start, as times in `drawn` count; `names` says what labels mean, `row_ids` what row codes do;
    `read` how much of the scope was read, from 0 to 1, where that is not all.
    """
    first = np.flatnonzero(np.append(True, drawn.row[1:] != drawn.row[:-1])) if len(drawn) else np.zeros(0, np.int64)
    rows = drawn.row[first]
    bars = _bars(drawn, since_ns, level)
    label, said = _said(drawn.label, names)
    keep = _breaks(drawn, label, bars)
    last = np.append(keep[1:], len(bars.position)) - 1 if len(keep) else keep
    together = _sums(drawn.count, keep)
    count = np.where(bars.whole[keep] & (together == 1), 0, np.clip(1 + 8 * np.log2(np.maximum(together, 1)), 1, 255))
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    parts = (
        np.array([MAGIC, len(keep), len(rows), len(text), level, 0 if read is None else 1 + int(read * 1000)], "<u4"),
        row_ids[rows].astype("<u8"),
        _sums(drawn.count, first).astype("<u8"),
        _sums(drawn.busy, first).astype("<u8"),
        np.append(np.searchsorted(keep, first), len(keep)).astype("<u4"),
        _planes(np.diff(bars.position[keep], prepend=0)),
        _planes(np.clip(bars.position[last] + bars.width[last] - bars.position[keep], 1, 65535)),
        _planes(label[keep]),
        bars.density[keep],
        count.astype(np.uint8),
    )
    return b"".join(part.tobytes() for part in parts) + text


def _planes(values: np.ndarray) -> np.ndarray:
    """Return numbers, modulo 2^16, as all their low bytes and then all their high ones."""
    return values.astype("<u2").view(np.uint8).reshape(-1, 2).T.ravel()


def _said(label: np.ndarray, names: Names) -> tuple[np.ndarray, list[list[Any]]]:
    """Return each bar's index into the names, and the names as [name, class, own]; the rarest past 65,535 share one."""
    seen = np.zeros(int(label.max()) + 1 if len(label) else 0, np.int64)
    seen[label] = 1
    index, said = (np.cumsum(seen) - 1)[label], [names(each) for each in np.flatnonzero(seen).tolist()]
    if len(said) > 65535:
        index, said = np.minimum(index, 65535), [*said[:65535], ["other names", "other", 0]]
    return index, said


def _bars(drawn: Drawn, since_ns: int, level: int) -> _Bars:
    """Return positions and widths in parts of a bucket, and densities: whole bars to scale, the others as their bucket."""
    bucket, start = 1 << level, drawn.start - since_ns
    whole = drawn.longest >= bucket
    position = np.where(whole, start * PARTS >> level, (start >> level) * PARTS)
    width = np.where(whole, np.maximum(-((since_ns - drawn.end) * PARTS >> level) - position, 1), PARTS)
    density = np.where(whole, 255, _rounded(np.clip(drawn.busy / bucket, 0, 1))).astype(np.uint8)
    return _Bars(position, width, density, whole)


def _rounded(ratio: np.ndarray) -> Any:
    """Return the ratio in 255ths, in steps coarse enough that neighbours become one bar."""
    return np.ceil(ratio * _DENSITY_STEPS) * (255 // _DENSITY_STEPS)


def _breaks(drawn: Drawn, label: np.ndarray, bars: _Bars) -> np.ndarray:
    """Return where a drawn bar begins: everywhere, save that buckets of one name and density that touch become one."""
    if not len(drawn):
        return np.zeros(0, np.int64)
    same = (
        ~bars.whole[1:] & ~bars.whole[:-1]
        & (drawn.row[1:] == drawn.row[:-1]) & (label[1:] == label[:-1])
        & (bars.density[1:] == bars.density[:-1]) & (bars.position[1:] == bars.position[:-1] + PARTS)
    )  # fmt: skip
    return np.flatnonzero(np.append(True, ~same))


def _sums(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, first, dtype=np.int64) if len(first) else np.zeros(0, np.int64)
