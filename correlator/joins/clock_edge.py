"""Rows of `clock_edge`: the bounds on each pair of nodes' clocks, from the two ends of the exchanges between them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins.clock_offset import forward, offset, reverse
from warpline import schema

SEND_NS = 20_000
"""How long before its stamp a message may have left: a send is stamped when its call returns, and over a pair of virtual
devices the other end has sometimes read by then (2.7 µs before, in 2 of 176 answers)."""


def clock_edges(matched: pa.Table, moments: Iterable[int]) -> pa.Table:
    """Return bounds for every pair of nodes at each moment; `matched` are rows of the query `_join_clock`.

    A pair that too few messages crossed has no row: nothing is known of it.
    """
    rows: list[tuple[object, ...]] = []
    pairs = matched.select(["node", "other_node"]).group_by(["node", "other_node"]).aggregate([])
    moments = list(moments)
    for pair in sorted(pairs.to_pylist(), key=lambda p: (p["node"], p["other_node"])):
        mine = matched.filter(
            pc.and_(pc.equal(matched["node"], pair["node"]), pc.equal(matched["other_node"], pair["other_node"]))
        )
        upper = forward(*_known(mine, "sent_ns", "received_ns"))
        lower = reverse(*_known(mine, "answered_ns", "heard_ns"))
        for at in moments:
            found = offset(upper, lower, at)
            if found.status != "unknown":
                bounds = (int(np.floor(found.low)), int(np.ceil(found.high)))
                counts = (found.forward, found.reverse)
                rows.append((at, *pair.values(), *bounds, found.drift_ppb, *counts, found.status, found.method))
    names = (
        "time_ns",
        "node",
        "other_node",
        "low_ns",
        "high_ns",
        "drift_ppb",
        "forward",
        "reverse",
        "status",
        "method",
    )
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    values = {n: list(c) for n, c in zip(names, columns, strict=True)}
    return pa.Table.from_batches([schema.table("clock_edge").batch(values, rows=len(rows))])


def _known(rows: pa.Table, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    """Return when messages left, at the latest that is certain, and when they came."""
    rows = rows.filter(pc.and_(pc.is_valid(rows[first]), pc.is_valid(rows[second])))
    return rows[first].to_numpy() - SEND_NS, rows[second].to_numpy()
