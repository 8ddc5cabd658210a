"""What the tests of identity share: exchanges and engine requests as rows, and what is found of them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from correlator.joins.identity import Identity, identify
from warpline import schema

MS = 1_000_000


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    declared = schema.table(name)
    used = {key for row in rows for key in row}
    columns = {key: [row.get(key) for row in rows] for key in used}
    if not rows:
        return pa.Table.from_batches([], schema=declared.arrow)
    return pa.Table.from_batches([declared.batch(columns, rows=len(rows))])


def exchange(side: str, connection: int, at_ms: int, process: str, **more: Any) -> dict[str, Any]:
    client, server = ("10.0.0.1", 40000 + more.pop("port", 0)), ("10.0.0.9", 8000)
    local, peer = (client, server) if side == "client" else (server, client)
    return {
        "start_ns": at_ms * MS,
        "end_ns": (at_ms + more.pop("lasts_ms", 50)) * MS,
        "node": "a" if side == "client" else "b",
        "process_uid": process,
        "side": side,
        "connection_id": connection,
        "ordinal": 0,
        "request_offset_bytes": 0,
        "local_address": local[0],
        "local_port": local[1],
        "peer_address": peer[0],
        "peer_port": peer[1],
        "status": 200,
        "ended_by": "complete",
        **more,
    }


def engine_request(internal: str, at_ms: int, process: str = "engine", **more: Any) -> dict[str, Any]:
    return {"start_ns": at_ms * MS, "node": "b", "process_uid": process, "internal_id": internal, **more}


def joined(
    exchanges: list[dict[str, Any]],
    engine: list[dict[str, Any]],
    connections: list[dict[str, Any]] | None = None,
    losses: list[dict[str, Any]] | None = None,
) -> Identity:
    """Join rows; losses are none that were counted where they are [], and were not counted where they are None."""
    return identify(
        table("http_exchange", exchanges),
        table("engine_request", engine),
        table("connection", connections or []),
        None if losses is None else table("loss", losses),
    )


def attempts(found: Identity, kind: str) -> dict[str, str]:
    return {r["value"]: r["attempt_uid"] for r in found.alias.to_pylist() if r["kind"] == kind}


def requests(found: Identity, kind: str) -> dict[str, str]:
    return {r["value"]: r["request_uid"] for r in found.alias.to_pylist() if r["kind"] == kind}


def edges(found: Identity, relation: str) -> list[tuple[str, str, str, str]]:
    rows = found.edge.to_pylist()
    return [(r["from_id"], r["to_id"], r["evidence"], r["rule"]) for r in rows if r["relation"] == relation]
