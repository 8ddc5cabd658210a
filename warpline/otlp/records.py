"""What the decoders of the three signals share: the outcome, resource and scope, ids, times, and columns being filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from warpline.batch import Batch
from warpline.errors import WarplineError
from warpline.otlp.values import Redaction, attributes_text, quote
from warpline.schema import Column, Table, Type

REDACTED = "content redacted"
"""Loss reason of prompt and completion text, bodies and credentials that were dropped at the door."""

INVALID_ID = "invalid id beside a valid record"
INVALID_NUMBER = "number beyond 63 bits"

Identity = TypeVar("Identity", bytes, int)

EARLIEST_NS = 946_684_800_000_000_000  # 2000-01-01
LATEST_NS = 4_102_444_800_000_000_000  # 2100-01-01
"""Times outside are no times of ours: each day has a file of its own in the store, so a time is never taken on trust."""


class Malformed(WarplineError):
    """A request is not OTLP, or holds more than a door lets in; sending it again will not help."""


@dataclass
class Decoded:
    """What a request held. `rejected` records were refused, `message` says why; `losses` counts by reason."""

    batches: list[Batch] = field(default_factory=list)
    rejected: int = 0
    message: str = ""
    losses: dict[str, int] = field(default_factory=dict)

    def lost(self, reason: str, count: int = 1) -> None:
        """Count `count` records as lost for `reason`."""
        if count:
            self.losses[reason] = self.losses.get(reason, 0) + count

    def reject(self, reason: str, count: int = 1, sentence: str = "") -> None:
        """Refuse `count` records, and tell the sender."""
        if count:
            self.lost(reason, count)
            self.rejected += count
            self.message = self.message or sentence or reason


@dataclass
class Request:
    """One request while it is decoded. `untimed` spans have no time but that of their receipt."""

    now_ns: int
    redaction: Redaction
    untimed: int = 0
    outcome: Decoded = field(default_factory=Decoded)


class Rows:
    """Columns of one table being filled, row by row; a block is the rows of one scope, which share its origin."""

    def __init__(self, table: Table, of_block: Sequence[str]) -> None:
        """Make empty columns; those named in `of_block` are given per block."""
        self.table, self._of_block = table, of_block
        self._rows: list[Mapping[str, Any]] = []
        self._blocks: list[tuple[Mapping[str, str], int]] = []
        self._begun = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row; columns left out are NULL."""
        self._rows.append(row)

    def end_block(self, origin: Mapping[str, str]) -> None:
        """Say where the rows added since the last call came from."""
        self._blocks.append((origin, len(self) - self._begun))
        self._begun = len(self)

    def batch(self) -> Batch | None:
        """Return all rows, None where there are none."""
        if not len(self):
            return None
        counts = np.array([count for _, count in self._blocks])
        own = [column for column in self.table.columns if column.name not in self._of_block]
        arrays: dict[str, Any] = {c.name: column_array(c, [row.get(c.name) for row in self._rows]) for c in own}
        for name in self._of_block:
            values = pa.array([origin.get(name) for origin, _ in self._blocks], pa.string()).dictionary_encode()
            taken = values.indices.take(pa.array(np.repeat(np.arange(len(counts)), counts)))
            arrays[name] = pa.DictionaryArray.from_arrays(taken, values.dictionary)
        return Batch(self.table, self.table.batch(arrays))


def column_array(column: Column, values: Sequence[Any]) -> pa.Array:
    """Return a list of Python values as the column's Arrow array (ids are given as bytes or whole numbers)."""
    if column.type is Type.TRACE_ID:
        return pa.uuid().wrap_array(pa.array(values, pa.binary(16)))
    if pa.types.is_dictionary(column.type.arrow):
        return pa.array(values, pa.string()).dictionary_encode()
    return pa.array(values, column.type.arrow)


PROMOTED = {"service.name": "service", "k8s.node.name": "node", "k8s.pod.name": "pod", "k8s.pod.uid": "pod_uid"}
"""Resource attributes that are columns, where they are texts."""

ORIGIN = (*PROMOTED.values(), "resource", "scope", "origin")


def origin(resource_block: Any, scope_block: Any, redaction: Redaction) -> dict[str, str]:
    """Return the columns that a ResourceSpans (or the like) and a ScopeSpans (or the like) in it give their rows."""
    columns, others = {}, []
    for pair in resource_block.resource.attributes:
        column = PROMOTED.get(pair.key)
        if column and column not in columns and pair.value.WhichOneof("value") == "string_value":
            columns[column] = pair.value.string_value
        else:
            others.append(pair)
    columns |= {
        "resource": attributes_text(others, redaction),
        "scope": scope_block.scope.name or None,
        "origin": _origin_text(resource_block, scope_block, redaction),
    }
    return {name: value for name, value in columns.items() if value is not None}


def _origin_text(resource_block: Any, scope_block: Any, redaction: Redaction) -> str | None:
    scope, resource = scope_block.scope, resource_block.resource
    parts = {
        "scope_version": quote(scope.version) if scope.version else None,
        "scope_attributes": attributes_text(scope.attributes, redaction),
        "scope_dropped": str(scope.dropped_attributes_count) if scope.dropped_attributes_count else None,
        "scope_schema_url": quote(scope_block.schema_url) if scope_block.schema_url else None,
        "resource_schema_url": quote(resource_block.schema_url) if resource_block.schema_url else None,
        "resource_dropped": str(resource.dropped_attributes_count) if resource.dropped_attributes_count else None,
        "entities": "[" + ",".join(map(_entity_text, resource.entity_refs)) + "]" if resource.entity_refs else None,
    }
    return object_text(parts)


def _entity_text(entity: Any) -> str:
    parts = {
        "type": quote(entity.type) if entity.type else None,
        "schema_url": quote(entity.schema_url) if entity.schema_url else None,
        "id_keys": list_text(entity.id_keys),
        "description_keys": list_text(entity.description_keys),
    }
    return object_text(parts) or "{}"


def list_text(texts: Sequence[str]) -> str | None:
    """Return texts as a JSON array, None for none."""
    return "[" + ",".join(map(quote, texts)) + "]" if texts else None


def object_text(parts: Mapping[str, str | None]) -> str | None:
    """Return a JSON object of values that are JSON already, without those that are None; None where none is left."""
    kept = [f'"{name}":{value}' for name, value in parts.items() if value is not None]
    return "{" + ",".join(kept) + "}" if kept else None


def trace_id(raw: bytes) -> bytes | None:
    """Return a valid trace id, None for one of another length or all zeros (W3C trace context)."""
    return raw if len(raw) == 16 and any(raw) else None


def span_id(raw: bytes) -> int | None:
    """Return a valid span id as a big-endian number, None for one of another length or zero."""
    return (int.from_bytes(raw, "big") or None) if len(raw) == 8 else None


def checked(read: Callable[[bytes], Identity | None], raw: bytes, request: Request) -> Identity | None:
    """Return an id that may be absent; one that is there and invalid is NULL, and counted."""
    found = read(raw)
    if found is None and raw:
        request.outcome.lost(INVALID_ID)
    return found


def bounded(number: int, request: Request) -> int | None:
    """Return an unsigned number as a column's value; one beyond the column's range is NULL, and counted."""
    found = whole(number)
    if found is None:
        request.outcome.lost(INVALID_NUMBER)
    return found


def in_range(time_ns: int) -> bool:
    """Say whether a Unix time in ns lies in this century."""
    return EARLIEST_NS <= time_ns < LATEST_NS


def whole(number: int) -> int | None:
    """Return an unsigned 64-bit number as a signed column's value; None, which is NULL, where it does not fit."""
    return number if number < 1 << 63 else None
