"""What the identity join joins: exchanges on sockets and requests inside engines, as arrays of codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from correlator.joins import ids
from correlator.joins.union import Int64, codes, pair_codes

Bool = NDArray[np.bool_]
OPEN_NS = np.int64(2**62)
"""End of what has not ended."""
_FAILED_CALLS = (1, 2, 4, 8, 10, 13, 14, 15)
"""Statuses of gRPC that a client may try again after, as after HTTP's 429 and 5xx: cancelled, unknown, deadline exceeded,
resource exhausted, aborted, internal, unavailable, data loss."""


@dataclass(frozen=True, slots=True)
class Entities:
    """Exchanges, then engine requests, one element each; a code is -1 where there is none."""

    uid: pa.Array
    exchanges: int
    """How many of the entities are exchanges."""
    start: Int64
    end: Int64
    process: Int64
    server: Bool
    """True for the server's side of an exchange."""
    engine: Bool
    failed: Bool
    response: Int64
    masked: Int64
    trace: Int64
    caller: Int64
    """Code of (trace id, caller's span id)."""
    external: Int64
    internal: Int64
    """Engine's own id, the index of one of n samples aside."""
    route: Int64
    """Code of what both ends of a connection say alike: the client's address, the server's address and port."""
    passage: Int64
    """Code of the client's port and the place in the connection: of one route, the same at both ends of one exchange."""
    node: Int64
    own: Bool
    """True where the response's id is its server's own: an exchange's head was read, and in none that bears it is the id."""
    suffixed: Bool
    """True for engine requests to whose id outside the engine added digits of its own, drawn at random."""
    whole: Bool
    """True where no loss was counted on the node that could have been another of the same ids."""


def build(exchanges: pa.Table, engine: pa.Table, losses: pa.Table | None) -> Entities:
    """Return the entities of rows of `http_exchange` and `engine_request`, both as `named` returned them; `losses` are rows
    of `loss`, None where nobody counted."""
    count, more = len(exchanges), len(engine)
    none, nones = np.full(count, -1), np.full(more, -1)
    trace = codes(_both(trace_text(exchanges), trace_text(engine)))
    span = codes(_both(exchanges["parent_span_id"], engine["parent_span_id"]))
    named_outside = pc.coalesce(engine["external_id"], ids.external(engine["internal_id"]))
    route, passage = _passages(exchanges)
    nodes = _both(exchanges["node"], engine["node"]).combine_chunks()
    start = np.concatenate([exchanges["start_ns"].to_numpy(), engine["start_ns"].to_numpy()])
    process = codes(_both(exchanges["process_uid"], engine["process_uid"]))
    response = _responses(exchanges, named_outside)
    internal = ids.without_sample(engine["internal_id"])
    return Entities(
        uid=_both(exchanges["uid"], engine["uid"]).combine_chunks(),
        exchanges=count,
        start=start,
        end=np.concatenate([_end(exchanges), _end(engine)]),
        process=process,
        server=np.concatenate([_equals(exchanges["side"], ["server"]), np.zeros(more, bool)]),
        engine=np.arange(count + more) >= count,
        failed=np.concatenate([_failed(exchanges), _equals(engine["finish_reason"], ["abort", "error"])]),
        response=response,
        masked=np.concatenate([codes(ids.masked(exchanges["request_id"])), nones]),
        trace=trace,
        caller=pair_codes(trace, span),
        external=np.concatenate([none, codes(named_outside)]),
        internal=np.concatenate([none, codes(internal)]),
        route=np.concatenate([route, nones]),
        passage=np.concatenate([passage, nones]),
        node=codes(nodes),
        own=_own(exchanges, process[:count], response),
        suffixed=np.concatenate([np.zeros(count, bool), _flags(pc.not_equal(internal, named_outside))]),
        whole=_whole(nodes, start, losses),
    )


def named_exchanges(rows: pa.Table) -> pa.Table:
    """Return exchanges with a column `uid` (node/connection/ordinal/side), each once, in the order of their names."""
    place = pc.coalesce(
        pc.binary_join_element_wise(_text(rows, "connection_id"), _text(rows, "ordinal"), "/"),
        _text(rows, "start_ns"),
    )
    return _last_of_each(rows, pc.binary_join_element_wise(_text(rows, "node"), place, _text(rows, "side"), "/"))


def named_requests(rows: pa.Table) -> pa.Table:
    """Return engine requests with a column `uid` (process/internal id), the last row of each, in that order."""
    process = pc.coalesce(_text(rows, "process_uid"), pa.scalar(""))
    return _last_of_each(rows, pc.binary_join_element_wise(process, _text(rows, "internal_id"), "/"))


def trace_text(rows: pa.Table) -> pa.ChunkedArray:
    """Return the column `trace_id` in 32 hexadecimal digits, whether it is UUIDs, their text, or 16 bytes."""
    column = rows["trace_id"]
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([c.storage for c in column.chunks], column.type.storage_type)
    if pa.types.is_string(column.type):
        return pc.replace_substring(column, "-", "")
    encoded = column.cast(pa.binary()).combine_chunks().dictionary_encode()
    words = pa.array([v.hex() if v is not None else None for v in encoded.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([words.take(encoded.indices)])


def _last_of_each(rows: pa.Table, names: pa.ChunkedArray) -> pa.Table:
    rows = rows.append_column("uid", names)
    keys = [("uid", "ascending"), ("start_ns", "ascending"), ("end_ns", "ascending")]
    rows = rows.take(pc.sort_indices(rows.select(["uid", "start_ns", "end_ns"]), keys))
    code = codes(rows["uid"])
    return rows.filter(pa.array(np.append(code[1:] != code[:-1], True) if len(code) else np.zeros(0, bool)))


def _passages(exchanges: pa.Table) -> tuple[Int64, Int64]:
    """Return codes of route and passage. A node's loopback addresses are its own; places are told apart by their kind, for
    a byte's offset says nothing of an ordinal."""
    is_client = pc.equal(_text(exchanges, "side"), "client")
    client, server = (_sides(exchanges, is_client, one, other) for one, other in (("local", "peer"), ("peer", "local")))
    inside = pc.match_substring_regex(server[0], r"^(127\.|::1$)")
    node = pc.if_else(inside, _text(exchanges, "node"), "")
    offset = _text(exchanges, "request_offset_bytes")
    kind = pc.if_else(pc.is_valid(offset), "offset", "ordinal")
    place = pc.coalesce(offset, _text(exchanges, "ordinal"))
    route = pc.binary_join_element_wise(client[0], *server, node, kind, "|")
    return codes(route), codes(pc.binary_join_element_wise(client[1], place, "|"))


def _sides(exchanges: pa.Table, is_client: pa.ChunkedArray, one: str, other: str) -> list[pa.ChunkedArray]:
    """Return address and port of end `one` in clients' rows, of end `other` in servers'."""
    return [
        pc.if_else(is_client, _text(exchanges, f"{one}_{name}"), _text(exchanges, f"{other}_{name}"))
        for name in ("address", "port")
    ]


def _own(exchanges: pa.Table, process: Int64, response: Int64) -> Bool:
    """Return whose response id a server made by itself. A client's exchange does not tell, nor a proxy's: what is behind a
    proxy sees other heads."""
    named, count = response >= 0, len(process)
    given = _flags(ids.of_header(_text(exchanges, "response_id"), _text(exchanges, "request_id")))
    server = _equals(exchanges["side"], ["server"])
    passes_on = np.isin(process, process[~server & named[:count] & (process >= 0)])
    read = _equals(pc.fill_null(_text(exchanges, "parse"), "full"), ["full"])
    own = np.zeros(int(response.max(initial=-1)) + 2, bool)
    own[response[:count][server & read & ~passes_on]] = True
    own[response[:count][given]] = False
    own[-1] = False  # Of those without.
    return own[response]


_SEEING = ("http_exchange", "engine_wire", "engine_step")
_CARRYING = ("export", "door", "spool", "store")
"""Sources of losses: those that see exchanges and engine requests on a node, and what carries their rows from any."""
_SOON_NS = 60 * 10**9
"""What is lost of an exchange is counted when it happens, or when its end does: within so long it is looked for."""


def _whole(nodes: pa.StringArray, start: Int64, losses: pa.Table | None) -> Bool:
    whole = np.full(len(start), losses is not None)
    if losses is None or not len(losses):
        return whole
    seeing, carrying = (_equals(losses["source"], list(names)) for names in (_SEEING, _CARRYING))
    begin, end = losses["start_ns"].to_numpy(), losses["end_ns"].fill_null(0).to_numpy()
    node = codes(pa.chunked_array([nodes.cast(pa.string()), *_text(losses, "node").chunks], pa.string()))
    here, there = node[: len(start)], node[len(start) :]
    for at in np.unique(here).tolist():
        near = np.flatnonzero(carrying | (seeing & (there == at)))
        near = near[np.argsort(begin[near], kind="stable")]
        latest = np.append(np.maximum.accumulate(np.maximum(begin, end)[near]), -OPEN_NS)
        mine = here == at
        before = np.searchsorted(begin[near], start[mine] + _SOON_NS, side="right") - 1
        whole[mine] = latest[before] < start[mine]
    return whole


def _responses(exchanges: pa.Table, named_outside: pa.ChunkedArray) -> Int64:
    """Return codes of response ids; an engine's external id is one, or one with the index of a prompt behind it."""
    known = pc.is_in(named_outside, value_set=exchanges["response_id"].combine_chunks())
    return codes(_both(exchanges["response_id"], pc.if_else(known, named_outside, ids.response(named_outside))))


def _failed(exchanges: pa.Table) -> Bool:
    status = exchanges["status"].fill_null(0).to_numpy()
    refused = np.isin(exchanges["grpc_status"].fill_null(0).to_numpy(), _FAILED_CALLS)
    failed: Bool = (
        (status == 0) | (status >= 500) | (status == 429) | refused | _equals(exchanges["ended_by"], ["abort"])
    )
    return failed


def _equals(column: pa.ChunkedArray, words: list[str]) -> Bool:
    return _flags(pc.is_in(column.cast(pa.string()), value_set=pa.array(words)))


def _flags(found: pa.Array | pa.ChunkedArray) -> Bool:
    found = found.fill_null(False)
    return np.asarray(found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy(), bool)


def _text(rows: pa.Table, column: str) -> pa.ChunkedArray:
    return rows[column].cast(pa.string())


def _both(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([*first.cast(pa.string()).chunks, *second.cast(pa.string()).chunks], pa.string())


def _end(rows: pa.Table) -> Int64:
    return np.asarray(rows["end_ns"].fill_null(int(OPEN_NS)).to_numpy(), np.int64)
