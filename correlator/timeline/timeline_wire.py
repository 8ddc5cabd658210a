"""A chunk of a timeline as bytes: 8 bytes a bar, so that a window of a million executions is some hundred kilobytes.

All numbers are little-endian. `bucket` is 2^level ns; positions count in eighths of a bucket from the chunk's start.

    uint32 × 6        magic "WLT1", bars, rows, length of the names, level, 0
    uint64 × rows     row ids
    uint64 × rows     bars of the row in the window, before any were drawn together
    uint64 × rows     their busy time in ns, exactly
    uint32 × rows+1   where each row's bars begin; the last is their number
    uint16 × bars     position        uint16 × bars   width
    uint16 × bars     index of the longest one's name
    uint8 × bars      share of the width that was busy, 255 = all
    uint8 × bars      0 for a bar drawn to scale, else 1 + 8 · log2(how many are drawn together)
    UTF-8             JSON: names, each [name, class, own] (own: 0 unknown, 1 this request's step, 2 another's)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAGIC = 0x31544C57
TILE_BUCKETS = 512
MAX_TILES = 8
PARTS = 8
"""Parts of a bucket that positions count in: 8 tiles are 32,768 of them, well inside 16 bits."""

NAME_LENGTH = 160
_DENSITY_STEPS = 32


@dataclass(frozen=True)
class _Bars:
    """The bars of a chunk, by row and then by time; times in ns from the chunk's start."""

    row_id: np.ndarray
    start: np.ndarray
    end: np.ndarray
    count: np.ndarray
    busy: np.ndarray
    name: np.ndarray
    whole: np.ndarray


def encode(lod: pa.Table, since_ns: int, level: int) -> bytes:
    """Return the chunk of the rows of view `timeline_lod` for a window that starts at `since_ns`."""
    bars, names = _sorted(lod, since_ns)
    rows, first = np.unique(bars.row_id, return_index=True)
    position, width, density = _drawn(bars, 1 << level)
    keep = _breaks(bars, position, density)
    last = np.append(keep[1:], len(position)) - 1 if len(keep) else keep
    together = _sums(bars.count, keep)
    count = np.where(bars.whole[keep] & (together == 1), 0, np.clip(1 + 8 * np.log2(np.maximum(together, 1)), 1, 255))
    text = json.dumps(names, ensure_ascii=False, separators=(",", ":")).encode()
    parts = (
        np.array([MAGIC, len(keep), len(rows), len(text), level, 0], "<u4"),
        rows.astype("<u8"),
        _sums(bars.count, first).astype("<u8"),
        _sums(bars.busy, first).astype("<u8"),
        np.append(np.searchsorted(keep, first), len(keep)).astype("<u4"),
        position[keep].astype("<u2"),
        np.clip(position[last] + width[last] - position[keep], 1, 65535).astype("<u2"),
        bars.name[keep].astype("<u2"),
        density[keep],
        count.astype(np.uint8),
    )
    return b"".join(part.tobytes() for part in parts) + text


def _sorted(lod: pa.Table, since_ns: int) -> tuple[_Bars, list[list[Any]]]:
    row_id, start = lod["row_id"].to_numpy(), lod["start_ns"].to_numpy() - since_ns
    order = np.lexsort((start, row_id))
    label = lod["longest"].combine_chunks()
    index, names = _names(label if isinstance(label, pa.StructArray) else label.chunk(0))
    columns = (row_id, start, lod["end_ns"].to_numpy() - since_ns, lod["bars"].to_numpy(), lod["busy_ns"].to_numpy())
    whole = lod["whole"].to_numpy().astype(bool)
    return _Bars(*(column[order] for column in (*columns, index, whole))), names


def _names(label: pa.StructArray) -> tuple[np.ndarray, list[list[Any]]]:
    """Return each bar's index into the names, and the names as [name, class, own]; the rarest past 65,535 share one."""
    name = pc.utf8_slice_codeunits(pc.fill_null(label.field("name"), "unnamed"), 0, NAME_LENGTH)
    kind = pc.fill_null(label.field("class"), "other")
    key = pc.binary_join_element_wise(name, kind, label.field("own").cast(pa.string()), "\x1f").dictionary_encode()
    index = key.indices.to_numpy()
    distinct = [[*text.split("\x1f")[:2], int(text[-1])] for text in key.dictionary.to_pylist()]
    if len(distinct) > 65535:
        index, distinct = np.minimum(index, 65535), [*distinct[:65535], ["other names", "other", 0]]
    return index, distinct


def _drawn(bars: _Bars, bucket: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return position and width in parts of a bucket, and density: whole bars to scale, the others as their bucket."""
    position = np.where(bars.whole, bars.start * PARTS // bucket, bars.start // bucket * PARTS)
    width = np.where(bars.whole, np.maximum(-(-bars.end * PARTS // bucket) - position, 1), PARTS)
    density = np.where(bars.whole, 255, _rounded(np.clip(bars.busy / bucket, 0, 1))).astype(np.uint8)
    return position, width, density


def _rounded(ratio: np.ndarray) -> Any:
    """Return the ratio in 255ths, in steps coarse enough that neighbours become one bar."""
    return np.ceil(ratio * _DENSITY_STEPS) * (255 // _DENSITY_STEPS)


def _breaks(bars: _Bars, position: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Return where a drawn bar begins: everywhere, save that buckets of one name and density that touch become one."""
    if not len(position):
        return np.zeros(0, np.int64)
    same = (
        ~bars.whole[1:] & ~bars.whole[:-1]
        & (bars.row_id[1:] == bars.row_id[:-1]) & (bars.name[1:] == bars.name[:-1])
        & (density[1:] == density[:-1]) & (position[1:] == position[:-1] + PARTS)
    )  # fmt: skip
    return np.flatnonzero(np.append(True, ~same))


def _sums(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, first) if len(first) else np.zeros(0, np.int64)
