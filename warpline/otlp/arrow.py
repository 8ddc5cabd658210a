"""Warpline's own batches on the wire: one OTLP log record each, `event_name` = the table, body = an Arrow IPC stream.

Every OTLP pipeline passes such a record through untouched, at 78 bytes a row where one record per row takes 238.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from warpline import schema
from warpline.batch import Batch
from warpline.errors import SchemaError
from warpline.otlp import ipc
from warpline.otlp.records import Decoded
from warpline.schema import Table

MAX_BODY_BYTES = 3 << 20
"""Largest Arrow body: below the 4 MiB that many gRPC receivers in between accept."""

MAX_ROWS_BYTES = 256 << 20
"""Most memory that a body may take once decompressed."""

UNFIT = "batch does not fit its table"
_ID, _ROWS, _VERSION = "warpline.batch.id", "warpline.batch.rows", "warpline.batch.schema_version"
_START, _END = "warpline.batch.start_ns", "warpline.batch.end_ns"
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def body(rows: pa.RecordBatch) -> pa.Buffer:
    """Return rows as an Arrow IPC stream, lz4."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=_OPTIONS) as writer:
        writer.write_batch(rows)
    return sink.getvalue()


def encode(batches: Sequence[Batch], resource: Mapping[str, str]) -> bytes:
    """Return the batches as one ExportLogsServiceRequest, each as one log record; `resource` says who sends.

    Raises SchemaError for a batch without an id, or one whose body is above MAX_BODY_BYTES: split it before it is named.
    """
    message = ExportLogsServiceRequest()
    logs = message.resource_logs.add()
    for key, value in resource.items():
        logs.resource.attributes.add(key=key).value.string_value = value
    scope = logs.scope_logs.add()
    scope.scope.name = "warpline"
    for batch in batches:
        _add(scope.log_records.add(), batch)
    return bytes(message.SerializeToString())


def _add(record: Any, batch: Batch) -> None:
    payload = body(batch.rows)
    if not batch.batch_id or payload.size > MAX_BODY_BYTES:
        raise SchemaError(
            f"batch {batch.batch_id!r} of {batch.table.name}: {payload.size} bytes; name it, and keep it to {MAX_BODY_BYTES}"
        )
    record.event_name = batch.table.name
    record.body.bytes_value = payload.to_pybytes()
    record.attributes.add(key=_ID).value.string_value = batch.batch_id
    numbers = {_ROWS: batch.rows.num_rows, _VERSION: schema.VERSION}
    if batch.rows.num_rows:
        bounds = pc.min_max(batch.rows.column(batch.table.time)).as_py()
        numbers |= {_START: bounds["min"], _END: bounds["max"]}
        record.time_unix_nano = max(bounds["min"], 0)
    for key, value in numbers.items():
        record.attributes.add(key=key).value.int_value = value


def is_batch(record: Any) -> bool:
    """Say whether a log record is a batch of Warpline's own."""
    return record.body.WhichOneof("value") == "bytes_value" and any(a.key == _ID for a in record.attributes)


def read(record: Any, outcome: Decoded) -> list[Batch]:
    """Return the batch in a log record; one that does not fit its table is refused with a sentence, all its rows counted."""
    attributes = {each.key: each.value for each in record.attributes}
    name = attributes[_ID].string_value
    try:
        table = schema.table(record.event_name)
        rows = _rows(table, record.body.bytes_value)
    except SchemaError as error:
        outcome.lost(UNFIT, max(attributes[_ROWS].int_value, 1) if _ROWS in attributes else 1)
        outcome.rejected += 1
        outcome.message = outcome.message or f"batch {name[:80]!r}: {error}{_version_hint(attributes)}"
        return []
    return [Batch(table, rows, name)] if rows.num_rows else []


def _version_hint(attributes: Mapping[str, Any]) -> str:
    sent = attributes[_VERSION].int_value if _VERSION in attributes else None
    return (
        ""
        if sent == schema.VERSION
        else f" (sent by schema version {sent}, here is {schema.VERSION}: upgrade the older)"
    )


def _rows(table: Table, payload: bytes) -> pa.RecordBatch:
    ipc.check(payload, MAX_ROWS_BYTES)
    try:
        with pa.ipc.open_stream(payload) as stream:
            if not stream.schema.equals(table.arrow):
                raise SchemaError(f"table {table.name}: {_difference(stream.schema, table.arrow)}")
            found = [each for each in stream if each.num_rows]
        for each in found:
            each.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise SchemaError(f"table {table.name}: body is not Arrow: {str(error)[:200]}") from None
    if not found:
        return _empty(table)
    rows = found[0] if len(found) == 1 else _joined(found)
    missing = [c.name for c in table.columns if c.required and rows.column(c.name).null_count]
    if missing:
        raise SchemaError(f"table {table.name}: column {missing[0]} has NULLs; it is required")
    return rows


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()[0]


def _empty(table: Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in table.arrow], schema=table.arrow)


def _difference(sent: pa.Schema, declared: pa.Schema) -> str:
    theirs, ours = {f.name: f for f in sent}, {f.name: f for f in declared}
    extra, missing = sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys())
    if extra or missing:
        return f"columns {missing} are missing and {extra} unknown; send the columns that `warpline schema` prints"
    wrong = [f"{n} is {theirs[n].type}, not {f.type}" for n, f in ours.items() if not theirs[n].equals(f)]
    return f"column {'; '.join(wrong) or 'order differs'}; send the types that `warpline schema` prints"
