"""Rows on their way: the unit that sources yield, the wire carries, the spool keeps and the store writes once."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from warpline.schema import Table


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one table. `batch_id` names them for exactly-once storage: `<node>/<start of its sender, ns>/<sequence>`
    for a collector's own, a hash of the request's body for a foreign sender's; empty while not yet assigned. A source that
    may tell the same rows again names them itself (`Context.new_name`): emitted, they are on disk, and stored once."""

    table: Table
    rows: pa.RecordBatch
    batch_id: str = ""
    fine: bool = False
    """True for what the ordinary detail leaves out: the flight recorder keeps it, and sends it where a window is kept."""
