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


def build(exchanges: pa.Table, engine: pa.Table) -> Entities:
    """Return the entities of rows of `http_exchange` and `engine_request`, both as `named` returned them."""
    count, more = len(exchanges), len(engine)
    none, nones = np.full(count, -1), np.full(more, -1)
    trace = codes(_both(trace_text(exchanges), trace_text(engine)))
    span = codes(_both(exchanges["parent_span_id"], engine["parent_span_id"]))
    named_outside = pc.coalesce(engine["external_id"], ids.external(engine["internal_id"]))
    route, passage = _passages(exchanges)
    return Entities(
        uid=_both(exchanges["uid"], engine["uid"]).combine_chunks(),
        exchanges=count,
        start=np.concatenate([exchanges["start_ns"].to_numpy(), engine["start_ns"].to_numpy()]),
        end=np.concatenate([_end(exchanges), _end(engine)]),
        process=codes(_both(exchanges["process_uid"], engine["process_uid"])),
        server=np.concatenate([_equals(exchanges["side"], ["server"]), np.zeros(more, bool)]),
        engine=np.arange(count + more) >= count,
        failed=np.concatenate([_failed(exchanges), _equals(engine["finish_reason"], ["abort", "error"])]),
        response=_responses(exchanges, named_outside),
        masked=np.concatenate([codes(ids.masked(exchanges["request_id"])), nones]),
        trace=trace,
        caller=pair_codes(trace, span),
        external=np.concatenate([none, codes(named_outside)]),
        internal=np.concatenate([none, codes(ids.without_sample(engine["internal_id"]))]),
        route=np.concatenate([route, nones]),
        passage=np.concatenate([passage, nones]),
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
    found = pc.is_in(column.cast(pa.string()), value_set=pa.array(words))
    return np.asarray(found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy(), bool)


def _text(rows: pa.Table, column: str) -> pa.ChunkedArray:
    return rows[column].cast(pa.string())


def _both(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([*first.cast(pa.string()).chunks, *second.cast(pa.string()).chunks], pa.string())


def _end(rows: pa.Table) -> Int64:
    return np.asarray(rows["end_ns"].fill_null(int(OPEN_NS)).to_numpy(), np.int64)
