"""The two ends of one exchange: the client's view of it and the server's, paired without a header.

The first byte of a request has the same offset in its connection at both ends, whatever the clocks say. Best is the pair
of initial sequence numbers that both ends' kernels hold (64 bits, unaltered by NAT); else the addresses and ports, which
name one connection at a time in one network namespace.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins.attribution import DERIVED, EXACT
from correlator.joins.entities import Entities
from correlator.joins.union import Int64, codes

SLACK_NS = 1_000_000_000
"""How far apart the two ends may say that an exchange began: a second of clock difference between nodes."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows of client exchanges and of the server exchanges at their other ends, with how each pair is known."""

    client: Int64
    server: Int64
    evidence: Int64
    rule: list[str]


def pair_ends(exchanges: pa.Table, connections: pa.Table, known: Entities) -> Pairs:
    """Pair client with server exchanges (rows of `http_exchange`); `connections` are the last rows of `connection`, `known`
    what the exchanges' ids are worth."""
    client_side = np.asarray(pc.equal(exchanges["side"].cast(pa.string()), "client").to_numpy(zero_copy_only=False))
    start = exchanges["start_ns"].to_numpy()
    place = _place(exchanges)
    first = _sequences(exchanges, connections, client_side)
    both = codes(_joined(first))
    numbered = codes(_joined([*first, place]))
    addressed = codes(_joined([*_addresses(exchanges, client_side), place]))
    same_place = pc.is_valid(exchanges["request_offset_bytes"]).to_numpy() | _numbered_by_the_protocol(exchanges)
    taken = np.zeros(len(start), bool)
    found: list[tuple[Int64, Int64, Int64, str]] = []
    for key, evidence, rule in ((numbered, EXACT, "sequence_numbers"), (addressed, DERIVED, "addresses_and_offset")):
        left, right = _adjacent(np.where(taken, -1, key), client_side, start)
        other = (both[left] >= 0) & (both[right] >= 0) & (both[left] != both[right])  # A port used again.
        left, right = left[~other], right[~other]
        taken[left] = taken[right] = True
        found.append((left, right, np.where(same_place[left] & same_place[right], evidence, DERIVED), rule))
    return _collected(found, exchanges, known)


def _numbered_by_the_protocol(exchanges: pa.Table) -> np.ndarray:
    """Return True where an exchange's ordinal is a stream's id, which both ends say alike; other ordinals count from when
    each end's collector began to look."""
    streams = pc.is_in(_text(exchanges, "protocol"), value_set=pa.array(["http/2", "grpc"]))
    return np.asarray(streams.to_numpy(), bool)


def _collected(found: list[tuple[Int64, Int64, Int64, str]], exchanges: pa.Table, known: Entities) -> Pairs:
    client = np.concatenate([f[0] for f in found])
    server = np.concatenate([f[1] for f in found])
    evidence = np.concatenate([f[2] for f in found])
    response = codes(exchanges["response_id"])
    same = (response[client] >= 0) & (response[client] == response[server])
    differ = (response[client] >= 0) & (response[server] >= 0) & ~same
    rules = np.concatenate([np.full(len(f[0]), f[3], object) for f in found])
    keep = ~differ
    # One response at both ends of one connection: that of another exchange only where the id can be repeated.
    sure = same & (known.own[server] | (known.whole[client] & known.whole[server]))
    return Pairs(client[keep], server[keep], np.where(sure, EXACT, evidence)[keep], rules[keep].tolist())


def _place(exchanges: pa.Table) -> pa.Array:
    """Return where in its connection an exchange stands: the offset of its first byte, else its ordinal."""
    offset = exchanges["request_offset_bytes"].cast(pa.string())
    ordinal = pc.binary_join_element_wise("#", exchanges["ordinal"].cast(pa.string()), "")
    return pc.coalesce(offset, ordinal)


def _addresses(exchanges: pa.Table, client_side: np.ndarray) -> list[pa.Array]:
    local = pc.binary_join_element_wise(_text(exchanges, "local_address"), _text(exchanges, "local_port"), ":")
    peer = pc.binary_join_element_wise(_text(exchanges, "peer_address"), _text(exchanges, "peer_port"), ":")
    mask = pa.array(client_side)
    return [pc.if_else(mask, local, peer), pc.if_else(mask, peer, local)]


def _sequences(exchanges: pa.Table, connections: pa.Table, client_side: np.ndarray) -> list[pa.Array]:
    """Return the client's and the server's initial sequence numbers of each exchange's connection, NULL where unknown."""
    connections = connections.filter(
        pc.and_(pc.is_valid(connections["isn_sent"]), pc.is_valid(connections["isn_received"]))
    )
    # Whichever came last: of rows that contradict each other the same one counts.
    connections = connections.sort_by([("isn_sent", "ascending"), ("isn_received", "ascending")])
    key = codes(
        pa.chunked_array([*_connection_keys(connections).chunks, *_connection_keys(exchanges).chunks], type=pa.string())
    )
    of_connection, of_exchange = key[: len(connections)], key[len(connections) :]
    row = np.full(key.max(initial=-1) + 2, -1, np.int64)
    row[of_connection] = np.arange(len(connections))
    row[-1] = -1
    at = row[of_exchange]
    picked = connections.take(pa.array(at, mask=at < 0))
    sent, received = _text(picked, "isn_sent"), _text(picked, "isn_received")
    mask = pa.array(client_side)
    return [pc.if_else(mask, sent, received), pc.if_else(mask, received, sent)]


def _connection_keys(rows: pa.Table) -> pa.ChunkedArray:
    key = pc.binary_join_element_wise(_text(rows, "node"), _text(rows, "connection_id"), "/")
    return key if isinstance(key, pa.ChunkedArray) else pa.chunked_array([key])


def _text(rows: pa.Table, column: str) -> pa.ChunkedArray:
    return rows[column].cast(pa.string())


def _joined(parts: list[pa.Array]) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "|")


def _adjacent(key: Int64, client_side: np.ndarray, start: Int64) -> tuple[Int64, Int64]:
    """Pair neighbours in time of one key: one client and one server row each, no row twice, begun within the slack."""
    rows = np.flatnonzero(key >= 0)
    order = rows[np.lexsort((~client_side[rows], start[rows], key[rows]))]
    fits = (key[order][1:] == key[order][:-1]) & (client_side[order][1:] != client_side[order][:-1])
    fits &= np.diff(start[order]) <= SLACK_NS
    begins = np.concatenate([[True], ~fits]) if len(order) else np.zeros(0, bool)
    run = np.flatnonzero(begins)
    place = np.arange(len(order)) - np.repeat(run, np.diff(np.append(run, len(order))))
    first = np.flatnonzero(np.concatenate([fits, [False]]) & (place % 2 == 0)) if len(order) else run
    one, other = order[first], order[first + 1] if len(first) else first
    is_client = client_side[one]
    return np.where(is_client, one, other), np.where(is_client, other, one)
