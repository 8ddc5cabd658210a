"""Every table that Warpline keeps, declared once.

From these declarations come the DuckDB tables and their comments, the Arrow schemas of the batches on the wire, the OTLP
names, `correlator/SCHEMA.md` and the contract tests. A table is a thing of the field (a request, a GPU kernel, a flow),
never a tool: CUPTI, Kineto and Nsight Systems all fill `gpu_kernel`.

Times are int64 nanoseconds of *node time* (see `warpline.clock`), which reads as Unix time; an interval is
`[start_ns, end_ns)`. A column's unit is the ending of its name. The tables of one part of the field share one module.
"""

from __future__ import annotations

from warpline.errors import SchemaError
from warpline.schema.declare import Column, Table, Type
from warpline.schema.engine import ENGINE_TABLES
from warpline.schema.gpu import GPU_TABLES
from warpline.schema.joins import JOIN_TABLES
from warpline.schema.network import NETWORK_TABLES
from warpline.schema.node import NODE_TABLES
from warpline.schema.telemetry import TELEMETRY_TABLES

VERSION = 1
"""Version of all declarations together; raised with every change of them, with a line in HISTORY."""

HISTORY: dict[int, str] = {1: "first version"}

TABLES: tuple[Table, ...] = (
    *NODE_TABLES,
    *NETWORK_TABLES,
    *TELEMETRY_TABLES,
    *ENGINE_TABLES,
    *GPU_TABLES,
    *JOIN_TABLES,
)

HOLDING = ("node", "process", "pod", "gpu", "service_state", "cluster_node")
"""Tables that say who or what there is: a row is told when it begins, and holds until something else is said."""

_BY_NAME = {table.name: table for table in TABLES}


def table(name: str) -> Table:
    """Return the table called `name`; raise SchemaError, naming all tables, if there is none."""
    found = _BY_NAME.get(name)
    if found is None:
        raise SchemaError(f"table {name!r}: not declared; tables are {', '.join(sorted(_BY_NAME))}")
    return found


def markdown() -> str:
    """Return the reference page of all tables, as `correlator/SCHEMA.md` holds it."""
    lines = [f"# Tables (schema version {VERSION})", "", "Written by `warpline schema`; do not edit."]
    for each in TABLES:
        lines += ["", f"## {each.name}", "", each.doc, ""]
        lines += ["| column | type | unit | OTLP name | meaning |", "|---|---|---|---|---|"]
        lines += [_markdown_row(each, column) for column in each.columns]
    return "\n".join(lines) + "\n"


def _markdown_row(of: Table, column: Column) -> str:
    null = "" if column.required else " May be NULL."
    return f"| {column.name} | {column.type.sql} | {column.ucum} | `{of.otlp_name(column)}` | {column.doc}{null} |"


__all__ = ["HISTORY", "HOLDING", "JOIN_TABLES", "TABLES", "VERSION", "Column", "Table", "Type", "markdown", "table"]
