"""Who is who: all ids of one attempt under one name, contradictions refused and reported.

An *attempt* is one passage of a request through a server; its entities are the exchanges on sockets and the requests inside
engines. A *request* is what its client meant: attempts that retried one another, a prefill and its decode. The rules are in
`attempts.py`, the grammar of ids in `ids.py`; here their outcome becomes rows of `alias`, `edge` and `finding`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins import ids
from correlator.joins.attempts import Grouping, group, relays
from correlator.joins.attribution import DERIVED, EVIDENCE, EXACT
from correlator.joins.entities import Entities, build, named_exchanges, named_requests, trace_text
from correlator.joins.pairing import Pairs, pair_ends
from correlator.joins.union import Int64, count_distinct
from warpline import schema


@dataclass(frozen=True, slots=True)
class Identity:
    """What the identity join found, as rows of `alias`, `edge` and `finding`."""

    alias: pa.RecordBatch
    edge: pa.RecordBatch
    finding: pa.RecordBatch


EVER = (-(1 << 62), 1 << 62)


def identify(
    exchanges: pa.Table,
    engine_requests: pa.Table,
    connections: pa.Table,
    losses: pa.Table | None = None,
    window: tuple[int, int] = EVER,
) -> Identity:
    """Join rows of `http_exchange`, `engine_request` and `connection`; `losses` are rows of `loss` around them. Of aliases
    only those first seen in `window` are returned: most of what lies around is for the joins alone.

    Where nobody counted losses (None), no id that clients can repeat makes an exact edge. The result depends on the rows
    alone, neither on their order nor on how often they are given.
    """
    exchanges, engine = named_exchanges(exchanges), named_requests(engine_requests)
    found = build(exchanges, engine, losses)
    pairs = pair_ends(exchanges, connections, found)
    phases = _phases(found, engine)
    ends = pairs.client, pairs.server, pairs.evidence == DERIVED
    grouping = group(found, ends, [(d, p, sure == EXACT) for d, p, _, sure in phases])
    names = _names(found, grouping, exchanges, engine)
    return Identity(
        _aliases(found, grouping, names, (exchanges, engine), window),
        _edges(found, grouping, names, pairs, phases),
        _findings(found, grouping, exchanges),
    )


Phase = tuple[int, int, str, int]
"""(decode, prefill, rule, evidence); rows counted over all entities."""


def _phases(found: Entities, engine: pa.Table) -> list[Phase]:
    """Return the pairs of engine requests of which one names the other, or that bear one transfer's id.

    Such an id is drawn at random or given by a router: where both go by different names outside, it may be another's. An
    engine's id to which it added nothing of its own is the client's, who may repeat it to another engine.
    """
    if engine["remote_request_id"].null_count == engine["transfer_id"].null_count == len(engine):
        return []
    internal = engine["internal_id"].cast(pa.string()).to_pylist()
    row_of: dict[str, list[int]] = {}
    for row, name in enumerate(internal):
        row_of.setdefault(name, []).append(row)
    base = found.exchanges
    found_pairs: list[Phase] = []
    for row, remote in enumerate(engine["remote_request_id"].cast(pa.string()).to_pylist()):
        if remote is not None and len(row_of.get(remote, [])) == 1 and row_of[remote] != [row]:
            sure = EXACT if found.suffixed[base + row_of[remote][0]] else DERIVED
            found_pairs.append((base + row, base + row_of[remote][0], "remote_request_id", sure))
    known = {d for d, *_ in found_pairs}
    roles = engine["role"].cast(pa.string()).to_pylist()
    transfers: dict[str, list[int]] = {}
    for row, transfer in enumerate(engine["transfer_id"].cast(pa.string()).to_pylist()):
        if transfer is not None:
            transfers.setdefault(transfer, []).append(row)
    for rows in transfers.values():
        decode = [r for r in rows if roles[r] == "decode"]
        prefill = [r for r in rows if roles[r] == "prefill"]
        if len(decode) == len(prefill) == 1 and base + decode[0] not in known:
            one, other = base + decode[0], base + prefill[0]
            same = found.external[one] == found.external[other] or found.trace[one] == found.trace[other] >= 0
            found_pairs.append((one, other, "transfer_id", EXACT if same else DERIVED))
    return found_pairs


@dataclass(frozen=True, slots=True)
class _Names:
    attempt: pa.Array
    request: pa.Array


def _names(found: Entities, grouping: Grouping, exchanges: pa.Table, engine: pa.Table) -> _Names:
    """Name each entity's attempt and request: by the response id where one attempt alone bears it, else by its first
    entity; the request by its first attempt."""
    responses = pa.chunked_array(
        [
            *exchanges["response_id"].cast(pa.string()).chunks,
            *ids.response(pc.coalesce(engine["external_id"], ids.external(engine["internal_id"]))).chunks,
        ],
        pa.string(),
    ).combine_chunks()
    known = found.response >= 0
    bearers = count_distinct(found.response, grouping.attempt, 1)
    lone = known & (bearers[np.maximum(found.response, 0)] == 1)
    rows = np.arange(len(found.start))
    order = np.lexsort((rows, ~lone, grouping.attempt))
    head = _first_of(grouping.attempt, order)
    uids = found.uid
    named = pc.if_else(pa.array(lone[head]), responses.take(pa.array(head)), uids.take(pa.array(head)))
    begin = found.start.copy()
    np.minimum.at(begin, head, found.start)
    first = _first_of(grouping.request, np.lexsort((rows, begin[head], grouping.request)))
    return _Names(named, named.take(pa.array(first)))


def _first_of(label: Int64, order: Int64) -> Int64:
    """Return for each row the row of its label that comes first in `order`, which sorts by label."""
    heads = order[np.concatenate([[True], np.diff(label[order]) != 0])] if len(order) else order
    first = np.zeros(int(label.max(initial=0)) + 1, np.int64)
    first[label[heads]] = heads
    return first[label]


def _aliases(
    found: Entities, grouping: Grouping, names: _Names, tables: tuple[pa.Table, pa.Table], window: tuple[int, int]
) -> pa.RecordBatch:
    (exchanges, engine), count = tables, found.exchanges
    columns: list[tuple[str, pa.Table, str, bool]] = [
        ("exchange", exchanges, "uid", True),
        ("response_id", exchanges, "response_id", True),
        ("request_id", exchanges, "request_id", True),
        ("trace_id", exchanges, "trace_id", True),
        ("internal_id", engine, "internal_id", False),
        ("external_id", engine, "external_id", False),
        ("trace_id", engine, "trace_id", False),
        ("remote_request_id", engine, "remote_request_id", False),
        ("transfer_id", engine, "transfer_id", False),
    ]
    parts = []
    evidence = pa.array(EVIDENCE).take(pa.array(grouping.evidence))
    for kind, rows, column, outside in columns:
        values = trace_text(rows) if column == "trace_id" else rows[column].cast(pa.string())
        place = slice(0, count) if outside else slice(count, None)
        scope = pa.array([""] * len(rows)) if outside or kind == "trace_id" else rows["process_uid"].cast(pa.string())
        parts.append(
            pa.table(
                {
                    "time_ns": rows["start_ns"],
                    "kind": pa.repeat(kind, len(rows)),
                    "scope": scope,
                    "value": values,
                    "attempt_uid": names.attempt[place],
                    "request_uid": names.request[place],
                    "evidence": evidence[place],
                }
            )
        )
    joined = pa.concat_tables(parts, promote_options="permissive")
    joined = joined.filter(pc.and_(pc.is_valid(joined["value"]), pc.less(joined["time_ns"], window[1])))
    keys = ["kind", "scope", "value", "attempt_uid", "request_uid", "evidence"]
    once = joined.group_by(keys).aggregate([("time_ns", "min")]).rename_columns([*keys, "time_ns"])
    once = once.filter(pc.greater_equal(once["time_ns"], window[0]))
    # What one request is known by lies together: whoever asks for it reads few rows. By texts alone this was half the cost.
    once = once.sort_by([(k, "ascending") for k in ("time_ns", *keys)])
    return schema.table("alias").batch({c: once[c].combine_chunks() for c in once.column_names}, rows=len(once))


def _edges(found: Entities, grouping: Grouping, names: _Names, pairs: Pairs, phases: list[Phase]) -> pa.RecordBatch:
    kinds = pa.array(["http_exchange", "engine_request"])
    relations = pa.array(["carried_by", "served_by"])
    engine, uid, every = found.engine.astype(np.int64), found.uid, np.arange(len(found.start))
    server, client = relays(found, grouping)
    relayed = np.maximum(grouping.evidence[server], grouping.evidence[client])
    decode, prefill, sure = (np.array([p[i] for p in phases], np.int64) for i in (0, 1, 3))
    before, after, known = (np.array([r[i] for r in grouping.retried], np.int64) for i in (0, 1, 3))
    parts: list[_Part] = [
        # Rows of `found`: whose start counts, then ends with their kinds, relation, evidence, rule.
        (
            every,
            "attempt",
            names.attempt,
            kinds.take(engine),
            uid,
            relations.take(engine),
            grouping.evidence,
            grouping.rule,
        ),
        _joining(
            uid, pairs.client, pairs.client, pairs.server, "http_exchange", "received_as", pairs.evidence, pairs.rule
        ),
        _joining(uid, client, server, client, "http_exchange", "relayed_as", relayed, "one_process"),
        _joining(uid, prefill, decode, prefill, "engine_request", "prefilled_by", sure, [p[2] for p in phases]),
        _joining(names.attempt, before, before, after, "attempt", "retried", known, [r[2] for r in grouping.retried]),
    ]
    tables = [
        pa.table(
            {
                "time_ns": found.start[at],
                "from_kind": _filled(from_kind, len(at)),
                "from_id": from_id,
                "to_kind": _filled(to_kind, len(at)),
                "to_id": to_id,
                "relation": _filled(relation, len(at)),
                "evidence": np.broadcast_to(np.asarray(evidence, np.int64), len(at)),
                "rule": _filled(rule, len(at)),
            }
        )
        for at, from_kind, from_id, to_kind, to_id, relation, evidence, rule in parts
    ]
    rows = pa.concat_tables(tables).combine_chunks()
    evidence = rows["evidence"].to_numpy()
    # Between two nodes the error is the clocks', which are bounded elsewhere: `clock_edge`.
    across = np.zeros(len(rows), bool)
    ends = np.flatnonzero(pc.equal(rows["relation"], "received_as").to_numpy())
    nodes = [pc.replace_substring_regex(rows[c].take(pa.array(ends)), "/.*$", "") for c in ("from_id", "to_id")]
    across[ends] = pc.not_equal(*nodes).to_numpy()
    error = pa.array(np.zeros(len(rows), np.int64), mask=across)
    values: dict[str, object] = {c: rows[c].combine_chunks() for c in rows.column_names}
    values["evidence"] = pa.array(EVIDENCE).take(pa.array(evidence))
    values["confidence"] = pa.array(np.ones(len(rows)), mask=evidence != EXACT)
    values["error_low_ns"] = values["error_high_ns"] = error
    return schema.table("edge").batch({**values, "alternatives": 0}, rows=len(rows))


_Part = tuple[Int64, Any, pa.Array, Any, pa.Array, Any, Any, Any]


def _joining(
    names: pa.Array, at: Int64, left: Int64, right: Int64, kind: str, relation: str, evidence: Any, rule: Any
) -> _Part:
    """Return edges between things of one kind: rows of `names`."""
    return at, kind, names.take(pa.array(left)), kind, names.take(pa.array(right)), relation, evidence, rule


def _filled(words: Any, count: int) -> pa.Array:
    """Return a text for each row: `words`, where there is one for each, else the same for all."""
    if isinstance(words, str):
        return pa.repeat(words, count)
    return words if isinstance(words, pa.Array) else pa.array(words, pa.string())


_WORDS = {"response_id": "response id", "request_id": "x-request-id"}


def _findings(found: Entities, grouping: Grouping, exchanges: pa.Table) -> pa.RecordBatch:
    """Return one finding for each contradiction: how many attempts bear one id at a time."""
    rows = []
    for name, bearers in grouping.refused:
        outside = bearers[bearers < found.exchanges]
        value = exchanges[name][int(outside[0])].as_py() if len(outside) else found.uid[int(bearers[0])].as_py()
        attempts = len(np.unique(grouping.attempt[bearers]))
        sentence = (
            f"{attempts} attempts bear the {_WORDS[name]} {value} and none is a retry of another: it was not used to join "
            "them; clients should send a new x-request-id with each request"
        )
        details = json.dumps({"id": value, "attempts": attempts, "kind": name})
        rows.append((int(found.start[bearers].min()), str(value), sentence, float(attempts), details))
    columns = list(zip(*rows, strict=True)) or [()] * 5
    fields = ("time_ns", "subject", "sentence", "score", "details")
    values = {f: list(c) for f, c in zip(fields, columns, strict=True)}
    return schema.table("finding").batch({**values, "kind": "identity_conflict", "evidence": "exact"}, rows=len(rows))
