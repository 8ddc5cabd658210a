"""Columns out of nested Arrow tables, without a loop over rows."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NS = pa.timestamp("ns", "UTC")


def field(table: pa.Table, path: str) -> pa.Array:
    """Return the column at a dotted path of struct fields; NULL wherever one on the way is."""
    first, *rest = path.split(".")
    column = table.column(first)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.struct_field(column, rest) if rest else column


def whole(texts: pa.Array) -> pa.Array:
    """Return whole numbers from their texts (JSON's form of 64-bit numbers), NULL where it is none or above 2^63."""
    fits = pc.match_substring_regex(texts, r"^-?\d{1,18}$|^[0-8]\d{18}$")
    return pc.if_else(fits, texts, None).cast(pa.int64())


def times(texts: pa.Array) -> pa.Array:
    """Return RFC 3339 times as ns since 1970, NULL where one is not understood."""
    try:
        return texts.cast(_NS).cast(pa.int64())
    except pa.ArrowInvalid:
        return pa.array([_time(text) for text in texts.to_pylist()], pa.int64())


def _time(text: str | None) -> int | None:
    if not text:
        return None
    try:
        return int(pa.scalar(text).cast(_NS).cast(pa.int64()).as_py())
    except (pa.ArrowInvalid, ValueError):
        pass
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round(told.timestamp() * 1e6) * 1000 if told.tzinfo else None


def trace_ids(texts: pa.Array) -> pa.Array:
    """Return W3C trace ids as 16 bytes, from hexadecimal texts of 32 or (B3's short form) 16 digits; NULL for others."""
    lower = pc.utf8_lower(texts)
    good = pc.match_substring_regex(lower, r"^(?:[0-9a-f]{16}|[0-9a-f]{32})$")
    distinct = pc.if_else(good, lower, None).dictionary_encode()
    raw = [bytes.fromhex(text.zfill(32)) if text.strip("0") else None for text in distinct.dictionary.to_pylist()]
    return pa.array(raw, pa.binary(16)).take(distinct.indices)


def header(headers: pa.Array, wanted: str) -> pa.Array:
    """Return the first value of the header `wanted` (lower case) in a column of lists of {key, value}."""
    rows = np.full(len(headers), -1, np.int64)
    pairs = pc.list_flatten(headers)
    parents = pc.list_parent_indices(headers).to_numpy(zero_copy_only=False)
    hits = pc.equal(pc.utf8_lower(pc.struct_field(pairs, "key")), wanted).to_numpy(zero_copy_only=False)
    found = np.flatnonzero(hits.astype(bool))[::-1]  # The first of several is written last and stays.
    rows[parents[found]] = found
    return pc.struct_field(pairs, "value").take(pa.array(rows, mask=rows < 0))


def path_of(urls: pa.Array) -> pa.Array:
    """Return the path of each URL or request target, without query and fragment."""
    path = pc.replace_substring_regex(urls, r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", "")
    path = pc.replace_substring_regex(path, r"[?#].*$", "")
    return pc.if_else(pc.equal(path, ""), "/", path)


def or_null(texts: pa.Array, *nothing: str) -> pa.Array:
    """Return `texts` with NULL for the empty text and for those of `nothing`."""
    return pc.if_else(pc.is_in(texts, pa.array(["", *nothing])), None, texts)
