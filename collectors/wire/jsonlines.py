"""JSON lines into Arrow, by a declared schema: fields that are not declared are passed over, fields that lack are NULL.

Arrow's own reader takes a block in one pass. Where it refuses one, each line is tried alone, so that a broken line costs
itself; that is about ten times slower.
"""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
import pyarrow.json as pj


def read(block: bytes, schema: pa.Schema) -> tuple[pa.Table, int]:
    """Return the objects of `block`, one a line, and how many lines were none. Raises nothing for any block."""
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    if not block.startswith(b"{") or block.count(b"\n{") + 1 != lines:
        return _line_by_line(block, schema)  # Arrow's reader does not survive a line that is `null`.
    try:
        table = pj.read_json(
            pa.BufferReader(block),
            read_options=pj.ReadOptions(use_threads=False, block_size=max(1 << 20, len(block) + 1)),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        if table.num_rows == lines:
            table.validate(full=True)  # Texts must be UTF-8, which the reader does not ask.
            return table, 0
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        pass
    return _line_by_line(block, schema)


def _line_by_line(block: bytes, schema: pa.Schema) -> tuple[pa.Table, int]:
    kept, bad = [], 0
    kind = pa.struct(list(schema))
    for line in block.splitlines():
        if not line.strip():
            continue
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict):
            kept.append(fit(found, kind))
        else:
            bad += 1
    return pa.Table.from_pylist(kept, schema=schema), bad


def fit(value: Any, kind: pa.DataType) -> Any:
    """Return `value` as `kind` can hold it: texts of numbers as numbers and the reverse, None where it makes no sense."""
    if pa.types.is_struct(kind):
        return {each.name: fit(value.get(each.name), each.type) for each in kind} if isinstance(value, dict) else None
    if pa.types.is_list(kind):
        return [fit(each, kind.value_type) for each in value] if isinstance(value, list) else None
    if value is None or isinstance(value, dict | list):
        return None
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if pa.types.is_integer(kind):
        return _whole(value)
    return value if isinstance(value, str) else str(value)


def _whole(value: Any) -> int | None:
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if -(1 << 63) <= number < 1 << 63 else None
