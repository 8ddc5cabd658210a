"""What goes on when the day that it was told on is dropped: processes, pods, GPUs, nodes, services.

Such rows are told once, and again where they change. An engine that runs for a month is told by one row, of the day on which
it began: with that day's file its process and its pod would be unknown from the eighth day on. So the newest row of each is
carried over to the next day that is kept, with its own time; of a node whose clock nobody has read in the days kept, nothing
is, so that what a dead node never said goodbye to is forgotten too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from correlator.storage.day import Day
from correlator.storage.pieces import Piece, select
from warpline import schema
from warpline.schema import Table

NOT_CARRIED = "a dropped day's processes and pods"
"""Loss reason of what could not be carried over."""

_CLOCK = schema.table("clock_pair")


@dataclass(frozen=True, slots=True)
class Lasting:
    """The columns that together name what a row of a table tells of, and the condition that it is over."""

    names: tuple[str, ...]
    over: str = "false"
    of_node: bool = True
    """The node's own collector tells it, so it goes with the node; else the cluster's, which tells ends as well."""


_LASTING = {
    "process": Lasting(("process_uid", "observed_by"), "end_ns IS NOT NULL"),
    "gpu": Lasting(("node", "gpu_uuid", "gpu_instance", "compute_instance", "observed_by")),
    "node": Lasting(("node", "boot_id")),
    "pod": Lasting(("pod_uid",), "phase = 'Deleted'", of_node=False),
    "service_state": Lasting(("kind", "object_uid"), "deleted", of_node=False),
    "cluster_node": Lasting(("node",), "deleted", of_node=False),
}


def rows(connection: duckdb.DuckDBPyConnection, dropped: Day, kept: Sequence[Day]) -> list[tuple[Table, pa.Table]]:
    """Return what only `dropped` tells of what goes on, by table. Raises duckdb.Error where a file cannot be read."""
    clocks = select(_CLOCK, _pieces(_CLOCK, kept))
    found = []
    for name in schema.HOLDING:
        table = schema.table(name)
        pieces = dropped.pieces(table)
        if pieces:
            asked = _query(table, select(table, pieces), select(table, _pieces(table, kept)), clocks)
            found.append((table, connection.execute(asked).to_arrow_table()))
    return [(table, each) for table, each in found if each.num_rows]


def _pieces(table: Table, days: Sequence[Day]) -> list[Piece]:
    return [piece for day in days for piece in day.pieces(table)]


def _query(table: Table, dropped: str, kept: str, clocks: str) -> str:
    """Return the query for the newest rows of `dropped` that are not over and of which `kept` knows nothing."""
    lasting = _LASTING[table.name]
    names = ", ".join(f'"{name}"' for name in lasting.names)
    same = " AND ".join(f'old."{name}" IS NOT DISTINCT FROM kept."{name}"' for name in lasting.names)
    # Of a process two rows have one time: that with the end is the later one.
    newest = (
        f'row_number() OVER (PARTITION BY {names} ORDER BY "{table.time}" DESC, {lasting.over} DESC NULLS LAST) = 1'
    )
    heard = f" AND node IN (SELECT node FROM ({clocks}))" if lasting.of_node else ""  # noqa: S608 (ours)
    return (
        f"SELECT old.* FROM (SELECT * FROM ({dropped}) QUALIFY {newest}) AS old ANTI JOIN ({kept}) AS kept ON {same}"  # noqa: S608
        f" WHERE ({lasting.over}) IS NOT TRUE{heard}"
    )
