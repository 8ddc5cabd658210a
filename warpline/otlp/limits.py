"""How much an OTLP request may hold: messages, counted on its bytes before it is parsed, and the length of each text in it.

A parsed message costs some 66 bytes, an empty one is 2 bytes on the wire: 4 MiB of empty ResourceSpans would take 130 MB.
In JSON an empty attribute is 3 bytes and takes 570 until it is a text again: 4 MiB of them took 795 MB.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warpline.batch import Batch
from warpline.otlp.records import Decoded, Malformed

MAX_BLOCKS = 20_000
"""Most resources, and most scopes in all of them."""

MAX_TEXT_BYTES = 4 << 20
"""Most bytes of one text of a record; all attributes of a record that no column holds are one. A prompt of a million tokens
has so many: whoever keeps content needs room for it."""

LARGE = "text beyond 4 MiB"
"""Loss reason of a record that has one."""

_MAX_EMPTY = 100_000
_MAX_EMPTY_SHARE = 0.25
_LEAST_JSON_BYTES = 12
"""Bytes of JSON for each object or array, at least: `{"intValue":1},` has 15, spans as SDKs send them 33."""
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)', re.DOTALL)


def check(body: bytes) -> None:
    """Raise Malformed where a protobuf request holds more blocks, or more empty messages, than any sender has reason to."""
    blocks = _top_level(body)
    if blocks > MAX_BLOCKS:
        raise Malformed(f"body holds more than {MAX_BLOCKS} resources; send fewer in one request")
    raw = np.frombuffer(body, np.uint8)
    empty = int(np.count_nonzero((raw[1:] == 0) & ((raw[:-1] & 0x87) == 2))) if len(raw) > 2 * _MAX_EMPTY else 0
    if empty > _MAX_EMPTY and 2 * empty > len(raw) * _MAX_EMPTY_SHARE:
        raise Malformed(f"body holds {empty} empty messages in {len(raw)} bytes; leave them out")


def check_json(body: bytes) -> None:
    """Raise Malformed where OTLP/JSON holds more objects and arrays than any sender has reason to."""
    if _opened(body) <= max(_MAX_EMPTY, len(body) // _LEAST_JSON_BYTES):
        return
    opened = _opened(_TEXTS.sub(b"", body))  # Texts may hold JSON of their own.
    if opened > max(_MAX_EMPTY, len(body) // _LEAST_JSON_BYTES):
        raise Malformed(f"body holds {opened} objects and arrays in {len(body)} bytes; leave out the empty ones")


def _opened(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


def check_blocks(request: Any) -> None:
    """Raise Malformed where a parsed export request has too many resources or scopes: each costs as much as many records."""
    resources = getattr(request, request.DESCRIPTOR.fields_by_number[1].name)
    scopes = request.DESCRIPTOR.fields_by_number[1].message_type.fields_by_number[2].name
    if len(resources) > MAX_BLOCKS or sum(len(getattr(each, scopes)) for each in resources) > MAX_BLOCKS:
        raise Malformed(f"body holds more than {MAX_BLOCKS} resources or scopes; send fewer in one request")


def without_large(batch: Batch, outcome: Decoded) -> Batch:
    """Return the rows of `batch` whose texts are no longer than MAX_TEXT_BYTES; `outcome` says how many were refused."""
    large = [found for column in batch.rows.columns if (found := _large(column)) is not None]
    if not large:
        return batch
    refused = np.logical_or.reduce(large)
    count = int(np.count_nonzero(refused))
    sentence = f"{count} records have a text of more than {MAX_TEXT_BYTES} bytes; shorten their attributes"
    outcome.reject(LARGE, count, f"{batch.table.name}: {sentence}")
    return replace(batch, rows=batch.rows.filter(pa.array(~refused)))


def _large(column: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Return which values are too long; None where none can be, which the length of all of them shows."""
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    if not (pa.types.is_string(texts.type) or pa.types.is_binary(texts.type)) or texts.nbytes <= MAX_TEXT_BYTES:
        return None
    beyond = pc.fill_null(pc.greater(pc.binary_length(texts), MAX_TEXT_BYTES), False)
    if texts is not column:
        beyond = pc.fill_null(beyond.take(column.indices), False)
    found = beyond.to_numpy(zero_copy_only=False)
    return found if found.any() else None


def _top_level(body: bytes) -> int:
    """Return the number of fields of the request itself, counting no further than MAX_BLOCKS + 1 and no malformed rest."""
    at = count = 0
    while at < len(body) and count <= MAX_BLOCKS:
        if body[at] & 7 != 2 or body[at] >= 128:
            return count
        at, size, shift = at + 1, 0, 0
        while at < len(body) and shift < 63:
            byte = body[at]
            size |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                break
        at, count = at + size, count + 1
    return count
