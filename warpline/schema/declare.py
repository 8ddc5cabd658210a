"""What a table and a column are, and how rows of one become an Arrow batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from warpline.errors import SchemaError

UNITS = {
    "_ns": "ns",
    "_s": "s",
    "_bytes": "By",
    "_tokens": "{token}",
    "_w": "W",
    "_j": "J",
    "_celsius": "Cel",
    "_hz": "Hz",
    "_ratio": "1",
    "_ppb": "[ppb]",
}
"""Endings of column names that are units, and their UCUM codes as OpenTelemetry writes them."""


class Type(Enum):
    """A column's type: how DuckDB and Arrow name it."""

    INT = ("BIGINT", pa.int64())
    FLOAT = ("DOUBLE", pa.float64())
    BOOL = ("BOOLEAN", pa.bool_())
    TEXT = ("VARCHAR", pa.string())
    NAME = ("VARCHAR", pa.dictionary(pa.int32(), pa.string()))
    """Text of which few values exist (a node, a kernel's name): dictionary-encoded on the wire."""
    TRACE_ID = ("UUID", pa.uuid())
    """A W3C trace id, 16 bytes: DuckDB keeps and compares it as a UUID at a fifth of a text's cost."""
    SPAN_ID = ("UBIGINT", pa.uint64())
    """A W3C span id: its 8 bytes as a big-endian number."""
    COUNTS = ("BIGINT[]", pa.list_(pa.int64()))
    """A histogram: counts by bucket; the column's text says the bounds."""
    JSON = ("JSON", pa.string())
    """A JSON text, for what no join needs but a person may look for."""
    JSON_NAME = ("JSON", pa.dictionary(pa.int32(), pa.string()))
    """A JSON text of which few values exist (a resource): dictionary-encoded on the wire."""

    @property
    def sql(self) -> str:
        """DuckDB's name of the type."""
        return self.value[0]

    @property
    def arrow(self) -> pa.DataType:
        """Arrow's type on the wire and in the spool."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `otlp` is its semantic-convention name where there is one; a column not `required` may be NULL."""

    name: str
    type: Type
    doc: str
    otlp: str = ""
    required: bool = False

    @property
    def ucum(self) -> str:
        """The unit's UCUM code, or an empty text for a column without a unit."""
        return next((code for ending, code in UNITS.items() if self.name.endswith(ending)), "")


@dataclass(frozen=True)
class Table:
    """One table; `name` is also the OTLP event name of its batches. `keys` order it for the reads that matter."""

    name: str
    doc: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...] = field(default=())

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Columns by name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema of a batch, columns in the order declared."""
        return pa.schema([pa.field(c.name, c.type.arrow, nullable=not c.required) for c in self.columns])

    @cached_property
    def time(self) -> str:
        """The column that says when a row happened, by which it is kept in one day or another."""
        return "start_ns" if "start_ns" in self.by_name else "time_ns"

    def otlp_name(self, column: Column) -> str:
        """Return the OTLP attribute name of `column`."""
        return column.otlp or f"warpline.{self.name}.{column.name}"

    def ddl(self, schema: str = "") -> list[str]:
        """Return the statements that make the table and its comments in DuckDB schema `schema`."""
        name = f"{schema}.{self.name}" if schema else self.name
        columns = ", ".join(f'"{c.name}" {c.type.sql}{" NOT NULL" if c.required else ""}' for c in self.columns)
        comments = [(f"TABLE {name}", self.doc)] + [(f'COLUMN {name}."{c.name}"', c.doc) for c in self.columns]
        return [f"CREATE TABLE IF NOT EXISTS {name} ({columns})"] + [
            "COMMENT ON {} IS '{}'".format(what, text.replace("'", "''")) for what, text in comments
        ]

    def batch(self, columns: Mapping[str, Any], rows: int | None = None) -> pa.RecordBatch:
        """Return a record batch of this table.

        `columns` maps a column's name to a numpy or Arrow array, a list, or one scalar that holds for every row;
        columns left out are NULL. `rows` is needed only where every value is a scalar. Raises SchemaError for an
        unknown or missing column, a value that does not fit its type, or arrays of unequal length.
        """
        unknown = columns.keys() - self.by_name.keys()
        missing = [c.name for c in self.columns if c.required and columns.get(c.name) is None]
        if unknown or missing:
            raise SchemaError(f"table {self.name}: unknown columns {sorted(unknown)}, missing columns {missing}")
        count = rows if rows is not None else _length(columns)
        arrays = [_array(self, c, columns.get(c.name), count) for c in self.columns]
        try:
            batch = pa.RecordBatch.from_arrays(arrays, schema=self.arrow)
            batch.validate()
        except (ValueError, pa.ArrowTypeError) as error:  # ArrowInvalid is a ValueError
            raise SchemaError(f"table {self.name}: {error}") from None
        return batch


def _length(columns: Mapping[str, Any]) -> int:
    lengths = {len(v) for v in columns.values() if _is_array(v)}
    return lengths.pop() if len(lengths) == 1 else (1 if not lengths else max(lengths))


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, list, tuple, pa.Array, pa.ChunkedArray))


def _array(table: Table, column: Column, value: Any, rows: int) -> pa.Array:
    kind = column.type.arrow
    try:
        if value is None:
            return _nulls(rows, kind)
        if not _is_array(value):
            return _constant(value, kind, rows)
        if isinstance(value, pa.ChunkedArray):
            value = value.combine_chunks()
        if isinstance(kind, pa.BaseExtensionType):
            return _extension(value, kind)
        if isinstance(value, pa.Array):
            return value if value.type == kind and not _null_in_dictionary(value) else _cast(value, kind)
        if pa.types.is_dictionary(kind):
            return pa.array(value, pa.string()).dictionary_encode()
        return pa.array(value, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise SchemaError(f"table {table.name}, column {column.name}: {error}") from None


def _null_in_dictionary(value: pa.Array) -> bool:
    return isinstance(value, pa.DictionaryArray) and value.dictionary.null_count > 0


def _nulls(rows: int, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):  # Arrow's own puts a NULL into the dictionary, which then cannot be unified.
        return pa.DictionaryArray.from_arrays(pa.nulls(rows, pa.int32()), pa.array([], pa.string()))
    return pa.nulls(rows, kind)


def _constant(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value], pa.string()))
    if isinstance(kind, pa.BaseExtensionType):
        return kind.wrap_array(pa.repeat(pa.scalar(value, kind.storage_type), rows))
    return pa.repeat(pa.scalar(value, kind), rows)


def _extension(value: Any, kind: pa.BaseExtensionType) -> pa.Array:
    if isinstance(value, pa.Array) and value.type == kind:
        return value
    return kind.wrap_array(pa.array(value, kind.storage_type))


def _cast(value: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        plain = value.cast(pa.string())
        return plain.dictionary_encode()
    return value.cast(kind)


def integer(name: str, doc: str, otlp: str = "", required: bool = False) -> Column:
    """Declare a 64-bit whole number."""
    return Column(name, Type.INT, doc, otlp, required)


def number(name: str, doc: str, otlp: str = "", required: bool = False) -> Column:
    """Declare a 64-bit floating-point number."""
    return Column(name, Type.FLOAT, doc, otlp, required)


def flag(name: str, doc: str, otlp: str = "", required: bool = False) -> Column:
    """Declare a truth value."""
    return Column(name, Type.BOOL, doc, otlp, required)


def text(name: str, doc: str, otlp: str = "", required: bool = False) -> Column:
    """Declare a text that differs from row to row."""
    return Column(name, Type.TEXT, doc, otlp, required)


def name(name: str, doc: str, otlp: str = "", required: bool = False) -> Column:
    """Declare a text of which few values exist."""
    return Column(name, Type.NAME, doc, otlp, required)


def counts(name: str, doc: str, otlp: str = "") -> Column:
    """Declare a histogram's counts."""
    return Column(name, Type.COUNTS, doc, otlp)


def json(name: str, doc: str, otlp: str = "") -> Column:
    """Declare a JSON text."""
    return Column(name, Type.JSON, doc, otlp)


def json_name(name: str, doc: str, otlp: str = "") -> Column:
    """Declare a JSON text of which few values exist."""
    return Column(name, Type.JSON_NAME, doc, otlp)


def trace_id(doc: str, required: bool = False) -> Column:
    """Declare the column `trace_id`."""
    return Column("trace_id", Type.TRACE_ID, doc, "", required)


def span_id(name: str, doc: str, required: bool = False) -> Column:
    """Declare a span id."""
    return Column(name, Type.SPAN_ID, doc, "", required)


START = integer("start_ns", "When it began, in node time.", required=True)
END = integer("end_ns", "When it ended, in node time; NULL while it lasts.")
TIME = integer("time_ns", "When it was seen, in node time.", required=True)
NODE = name("node", "Name of the node that it happened on.", "k8s.node.name", required=True)
PROCESS = name("process_uid", "Process that it belongs to: <node>:<start in ns since boot>:<pid>, safe against reuse.")
PID = integer("pid", "Process id in the host's PID namespace.", "process.pid")
THREAD = integer("thread_id", "Linux thread id in the host's PID namespace.", "thread.id")
SIMULATED = flag("simulated", "True where no real device made it (a double did); NULL means measured.")
