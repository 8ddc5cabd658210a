"""What a request's client saw beside what its server saw, where they are on two nodes: bounds of their clocks meet here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from correlator import around
from correlator.around import Cause, Row, milliseconds

DRIFT = 50e-6
"""How fast two clocks may drift apart from the moment of a bound, as `clock_offset.py` grants."""
_NOTABLE = 0.05
"""Share of the client's time from which on it is told."""


def crossed(view: Callable[..., pa.Table], found: Row) -> list[Cause]:
    """Say how much longer a client on another node waited than its server worked, and how much of it lay on each way.

    The sum needs no clock in common; each way is known within the bounds of the two nodes' clocks, where there are any.
    It is not part of the request's wall time, which is the server node's, and weighs nothing.
    """
    began, ended, node = found["client_start_ns"], found["client_end_ns"], found["client_node"]
    if began is None or ended is None or node is None or node == found["node"]:
        return []
    both = (ended - began) - (found["end_ns"] - found["start_ns"])
    if both < _NOTABLE * (ended - began) or ended <= began:
        return []
    way = f"the way through {around.counted(found['proxies'], 'proxy', 'proxies')}" if found["proxies"] else "the way"
    text = f"its client, on node {node}, waited {milliseconds(both)} more than its server worked: {way} there and back"
    method = "the client's time less the server's"
    edges = view("timeline_clock", at_ns=found["start_ns"], nodes=[node, found["node"]]).to_pylist()
    ahead = _ahead(edges, node, found["node"], found["start_ns"])
    there = found["start_ns"] - began
    to_server = (max(there - ahead[1], 0), min(there - ahead[0], both)) if ahead else (0, -1)
    if to_server[0] > to_server[1]:
        return [Cause(text, 0, str(found["evidence"]), method)]
    back = both - to_server[1], both - to_server[0]
    text += f"; there it took {_between(*to_server)}, back {_between(*back)}"
    return [Cause(text, 0, str(found["evidence"]), f"{method}; bounds of both nodes' clocks", error_ns=to_server)]


def _between(low: int, high: int) -> str:
    return f"{milliseconds(low)} to {milliseconds(high)}"


def _ahead(edges: list[dict[str, Any]], node: str, other: str, at_ns: int) -> tuple[int, int] | None:
    """Return the least and the most that the other node's time is ahead, in ns; None where nothing bounds it."""
    found: list[tuple[int, int]] = []
    for edge in edges:
        if edge["status"] in ("ok", "split", "prior_only") and {edge["node"], edge["other_node"]} == {node, other}:
            away = math.ceil(abs(edge["time_ns"] - at_ns) * DRIFT)
            low, high = edge["low_ns"] - away, edge["high_ns"] + away
            found.append((low, high) if edge["node"] == node else (-high, -low))
    return min(found, key=lambda each: each[1] - each[0]) if found else None
