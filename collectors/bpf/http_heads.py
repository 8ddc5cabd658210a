"""Heads of HTTP/1 requests, parsed as one block of bytes: lines are found and compared by numpy, no row passes Python.

Only headers on the allow-list are looked at (`traceparent`, `x-request-id`, `host`); the rest of a head is dropped here.
Formats: RFC 9112 (request line, fields), W3C Trace Context level 1 (traceparent).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

_LINE, _SPACE, _QUOTE, _QUESTION = 10, 32, 34, 63
_TRACEPARENT_BYTES = 55
_MODEL_SERVERS = (b"chatcmpl-", b"cmpl-", b"resp_", b"gen-", b"msg_", b"embd-")
"""How ids of responses begin: OpenAI's API and the servers that speak it, OpenRouter's, Anthropic's."""
_ID_LETTERS = np.isin(
    np.arange(256), np.frombuffer(b"-._0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "u1")
)
_DIGITS = np.full(256, 255, np.uint8)
"""What each letter is as a hexadecimal digit; 255 where it is none."""
for _letters in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _DIGITS[np.frombuffer(_letters, np.uint8)] = np.arange(16)


@dataclass(frozen=True)
class Heads:
    """What the heads of a batch say, each column in the order of the rows; NULL where a head does not say it."""

    method: pa.Array
    path: pa.Array
    host: pa.Array
    request_id: pa.Array
    trace_id: pa.Array
    """16 bytes, as text of the trace has them."""
    parent_span_id: pa.Array
    known: npt.NDArray[np.bool_]
    """Whether the first line is a request's."""


def parse(flat: Bytes, starts: Places) -> Heads:
    """Return what the heads in `flat` say; head i reaches from `starts[i]` to `starts[i + 1]`."""
    rows = len(starts) - 1
    flat = np.concatenate([flat, np.zeros(_TRACEPARENT_BYTES + 16, np.uint8)])  # So that no look ahead leaves it.
    newlines = np.flatnonzero(flat == _LINE)
    ends = _next(newlines, starts[:-1], starts[1:])
    ends -= (ends > starts[:-1]) & (flat[ends - 1] == 13)
    spaces = np.flatnonzero((flat == _SPACE) | (flat == _QUESTION))
    method_end = _next(spaces, starts[:-1], ends)
    path_end = _next(spaces, method_end + 1, ends)
    letters = (flat >= 65) & (flat <= 90)
    not_letters = np.flatnonzero(~letters)
    known = (method_end > starts[:-1]) & (_next(not_letters, starts[:-1], ends) == method_end) & (method_end < ends)
    begins = newlines + 1
    lines_row = np.searchsorted(starts, begins, "right") - 1
    inside = lines_row < rows
    begins, lines_row = begins[inside], lines_row[inside]
    traced = _traceparents(flat, *_named(flat, begins, lines_row, b"traceparent:"), rows)
    return Heads(
        _texts(flat, starts[:-1], method_end, known),
        _texts(flat, method_end + 1, path_end, known),
        _values(flat, newlines, *_named(flat, begins, lines_row, b"host:"), rows, 5),
        _values(flat, newlines, *_named(flat, begins, lines_row, b"x-request-id:"), rows, 13),
        *traced,
        known,
    )


def kept(heads: Heads, rows: npt.NDArray[np.bool_]) -> Heads:
    """Return the heads of those rows that are True in `rows`."""
    mask = pa.array(rows)
    return Heads(
        heads.method.filter(mask),
        heads.path.filter(mask),
        heads.host.filter(mask),
        heads.request_id.filter(mask),
        heads.trace_id.filter(mask),
        heads.parent_span_id.filter(mask),
        heads.known[rows],
    )


def response_ids(first: Bytes, lengths: Places) -> pa.Array:
    """Return the id in the first bytes of each response's body (`first` is rows × bytes), or NULL.

    Only ids of the forms that model servers make (chatcmpl-…, cmpl-…) are taken: anything else might be content.
    """
    rows, width = first.shape
    stride = width + 16  # So that no look ahead leaves a row.
    text = np.zeros((rows, stride), np.uint8)
    text[:, :width] = np.where(np.arange(width) < lengths[:, None], first, 0)
    flat = text.ravel()
    at = np.flatnonzero(flat[:-16] == _QUOTE)
    for place, letter in enumerate(b'id":', 1):
        at = at[flat[at + place] == letter]
    row, earliest = np.unique(at // stride, return_index=True)
    start = at[earliest] + 5
    start += flat[start] == _SPACE
    found = flat[start] == _QUOTE
    start += 1
    known = np.zeros(len(row), bool)
    for beginning in _MODEL_SERVERS:
        letters = flat[start[:, None] + np.arange(len(beginning))]
        known |= (letters == np.frombuffer(beginning, np.uint8)).all(axis=1)
    others = np.flatnonzero(~_ID_LETTERS[flat])
    begins, ends, present = np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.zeros(rows, bool)
    if len(row):
        begins[row], ends[row] = start, others[np.searchsorted(others, start)]
        present[row] = found & known & (flat[ends[row]] == _QUOTE)
    return _texts(flat, begins, ends, present)


def _next(places: Places, at: Places, otherwise: Places) -> Places:
    """Return for each `at` the first of the sorted `places` from there on, or `otherwise` where that comes first."""
    index = np.searchsorted(places, at)
    found = np.where(index < len(places), places[np.minimum(index, len(places) - 1)] if len(places) else 0, 1 << 62)
    return np.minimum(found, otherwise)


def _named(flat: Bytes, begins: Places, rows: Places, name: bytes) -> tuple[Places, Places]:
    """Return where the header `name` begins (its first occurrence in a head), and in which rows."""
    hits = np.ones(len(begins), bool)
    for place, letter in enumerate(name):
        hits &= (flat[begins + place] | 32) == (letter | 32)
        if place == 3:  # Most lines differ in the first letters: look only at the rest.
            kept = np.flatnonzero(hits)
            begins, rows, hits = begins[kept], rows[kept], np.ones(len(kept), bool)
    begins, rows = begins[hits], rows[hits]
    rows, first = np.unique(rows, return_index=True)
    return begins[first], rows


def _values(flat: Bytes, newlines: Places, begins: Places, rows: Places, count: int, skip: int) -> pa.Array:
    """Return the values of headers that begin at `begins`, one for each of `count` rows."""
    start, end = np.zeros(count, np.int64), np.zeros(count, np.int64)
    start[rows] = begins + skip
    start[rows] += flat[start[rows]] == _SPACE
    end[rows] = np.maximum(_next(newlines, start[rows], start[rows] + 256), start[rows])
    end[rows] -= (end[rows] > start[rows]) & (flat[end[rows] - 1] == 13)
    present = np.zeros(count, bool)
    present[rows] = True
    return _texts(flat, start, end, present & (end > start))


def _traceparents(flat: Bytes, begins: Places, rows: Places, count: int) -> tuple[pa.Array, pa.Array]:
    start = begins + len(b"traceparent:")
    start += flat[start] == _SPACE
    text = flat[start[:, None] + np.arange(_TRACEPARENT_BYTES)]
    digits = _DIGITS[text]
    dashes = (text[:, [2, 35, 52]] == 45).all(axis=1)
    trace, span = digits[:, 3:35], digits[:, 36:52]
    valid = dashes & (trace < 16).all(axis=1) & (span < 16).all(axis=1) & trace.any(axis=1) & span.any(axis=1)
    trace_bytes = ((trace[:, 0::2] << 4) | trace[:, 1::2])[valid].astype(np.uint8)
    span_bytes = ((span[:, 0::2] << 4) | span[:, 1::2])[valid].astype(np.uint8)
    present = np.zeros(count, bool)
    present[rows[valid]] = True
    traces = np.zeros((count, 16), np.uint8)
    traces[rows[valid]] = trace_bytes
    spans = np.zeros(count, np.uint64)
    spans[rows[valid]] = np.ascontiguousarray(span_bytes).view(">u8").ravel()
    return _fixed(traces, present), pa.array(spans, mask=~present)


def _fixed(rows: Bytes, present: npt.NDArray[np.bool_]) -> pa.Array:
    bitmap = pa.py_buffer(np.packbits(present, bitorder="little").tobytes())
    data = pa.py_buffer(np.ascontiguousarray(rows).tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows.shape[1]), len(rows), [bitmap, data])


def _texts(flat: Bytes, begins: Places, ends: Places, present: npt.NDArray[np.bool_]) -> pa.Array:
    """Return flat[begins:ends] for each row as text, NULL where not present; bytes beyond ASCII become question marks."""
    lengths = np.where(present, np.maximum(ends - begins, 0), 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.repeat(begins - offsets[:-1], lengths) + np.arange(offsets[-1])
    taken = flat[places]
    taken = np.where((taken < 32) | (taken > 126), _QUESTION, taken).astype(np.uint8)
    bitmap = pa.py_buffer(np.packbits(present, bitorder="little").tobytes())
    buffers = [bitmap, pa.py_buffer(offsets.astype(np.int32).tobytes()), pa.py_buffer(taken.tobytes())]
    return pa.StringArray.from_buffers(len(begins), buffers[1], buffers[2], bitmap)


def flatten(pieces: Any, order: Places, ids: npt.NDArray[np.uint64]) -> tuple[Bytes, Places]:
    """Return the pieces of heads as one block with the starts of each head of `ids` (sorted), pieces taken in `order`."""
    lengths = pieces["length"][order].astype(np.int64)
    data = pieces["data"][order]
    flat = data[np.arange(data.shape[1]) < lengths[:, None]]
    row = np.searchsorted(ids, pieces["id"][order])
    sizes = np.bincount(row, weights=lengths, minlength=len(ids)).astype(np.int64)
    return flat, np.concatenate([[0], np.cumsum(sizes)])
