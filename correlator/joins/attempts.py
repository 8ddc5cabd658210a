"""Which entities are one attempt, and which attempts one request.

An id that only one attempt can bear joins at once. An id that two attempts bear (a client that repeats X-Request-Id, a
retry, a prefill and a decode under one id) joins nothing by itself: each server's exchange stands for an attempt, and any
other bearer joins the only one that it fits in time, or none. So it is with an id that crossed from one client's address to
one server's port in several exchanges: a mesh that redirects connections unseen makes such, and its chain is derived then.
X-Request-Id names a request and not an attempt: that one attempt alone was seen to bear it may be because another's rows
were lost, so what it joins is derived, never exact. What other ids join is exact where `certain.py` says so.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from correlator.joins.attribution import DERIVED, EXACT
from correlator.joins.certain import certain
from correlator.joins.entities import Bool, Entities
from correlator.joins.union import Int64, components, count_distinct, pair_codes, star


@dataclass
class Grouping:
    """What was found: per entity its attempt's label and how it is known; refused keys; attempts that are one request."""

    attempt: Int64
    evidence: Int64
    rule: list[str]
    request: Int64
    """Per entity, the label of its request."""
    refused: list[tuple[str, Int64]] = field(default_factory=list)
    """(kind of key, entities that bear it) for each contradiction."""
    retried: list[tuple[int, int, str, int]] = field(default_factory=list)
    """(entity of the attempt that failed, entity of the next, rule, evidence)."""


def group(found: Entities, ends: tuple[Int64, Int64, Bool], phases: list[tuple[int, int, bool]]) -> Grouping:
    """Group entities. `ends` are rows of the two ends of one exchange and whether that is only derived; `phases` are
    pairs of engine requests, a decode and the prefill that it names, and whether that is exact."""
    left, right, weak = ends
    count = len(found.start)
    result = Grouping(np.arange(count), np.zeros(count, np.int64), ["itself"] * count, np.arange(count))
    result.attempt = components(count, left, right)
    result.evidence[right[weak]] = DERIVED
    for row in right.tolist():
        result.rule[row] = "two_ends"
    keys = {"trace_headers": _headers(found), "response_id": found.response, "request_id": found.masked}
    sure = [(one, other) for one, other, exact in phases if exact]
    for name in ("trace_headers", "response_id"):
        clear, _, _ = _clear(found, result, keys[name], name)
        _merge(found, result, certain(found, clear, name == "response_id", sure), name, EXACT)
    shared: list[tuple[str, Int64]] = []
    for name, key in keys.items():
        shared += [(name, rows) for rows in _join_by_key(found, result, key, name)]
    result.request = _united(result.attempt, [(one, other) for one, other, _ in phases])
    _join_requests(found, result, shared)
    return result


def relays(found: Entities, grouping: Grouping) -> tuple[Int64, Int64]:
    """Return (server row, client row) for what a proxy passed on: two exchanges of one process and one attempt, the second
    begun while the first lasted. Of several such servers' exchanges the latest one counts."""
    place = pair_codes(found.process, grouping.attempt)
    rows = np.flatnonzero(~found.engine & (place >= 0))
    rows = rows[np.lexsort((~found.server[rows], found.start[rows], place[rows]))]
    if not len(rows):
        return rows, rows
    fresh = np.concatenate([[True], place[rows][1:] != place[rows][:-1]])
    begin = np.maximum.accumulate(np.where(fresh, np.arange(len(rows)), 0))
    latest = np.maximum.accumulate(np.where(found.server[rows], np.arange(len(rows)), -1))
    server = rows[np.maximum(latest, 0)]
    passed = ~found.server[rows] & (latest >= begin) & (found.start[rows] <= found.end[server])
    return server[passed], rows[passed]


def _headers(found: Entities) -> Int64:
    """Return the caller's code of server exchanges and engine requests: trace headers that went from one to the other."""
    return np.where(found.server | found.engine, found.caller, -1)


def _clear(found: Entities, result: Grouping, key: Int64, name: str) -> tuple[Int64, Bool, Bool]:
    """Return the key where one attempt bears it, else -1; which keys several bear; which rows are innermost servers'."""
    terminal = _terminal(found, key)
    size = int(key.max(initial=-1)) + 2  # The last place is of those without a key.
    several = count_distinct(np.where(terminal, key, -1), result.attempt, size) > 1
    engine_key = np.where(found.engine, key, -1)
    outside = pair_codes(found.process, found.external)
    several |= count_distinct(engine_key, pair_codes(found.process, found.internal), size) > count_distinct(
        engine_key, outside, size
    )
    several[_asked_twice(found, key)] = True
    several[_passed_twice(found, key)] = True
    if name == "request_id":
        exchanges = ~found.engine & (found.response >= 0)
        several |= count_distinct(np.where(exchanges, key, -1), found.response, size) > 1
    return np.where((key >= 0) & ~several[key], key, -1), several, terminal


def _join_by_key(found: Entities, result: Grouping, key: Int64, name: str) -> list[Int64]:
    """Join the bearers of each key; return the bearers of keys that several attempts bear."""
    clear, several, terminal = _clear(found, result, key, name)
    _merge(found, result, star(clear), name, DERIVED)
    rows = np.flatnonzero((key >= 0) & several[key])
    rows = rows[np.argsort(key[rows], kind="stable")]
    groups = np.split(rows, np.flatnonzero(np.diff(key[rows])) + 1) if len(rows) else []
    for bearers in groups:
        _join_where_only_one_fits(found, result, bearers, terminal, name)
    return groups


def _asked_twice(found: Entities, key: Int64) -> Int64:
    """Return the keys that one process bore in several of the exchanges that it began: a server's rows may be lost."""
    rows = np.flatnonzero(~found.server & ~found.engine & (key >= 0))
    place = pair_codes(found.process[rows], key[rows])
    rows, place = rows[place >= 0], place[place >= 0]
    twice: Int64 = key[rows[np.bincount(place)[place] > 1]] if len(rows) else key[rows]
    return twice


def _passed_twice(found: Entities, key: Int64) -> Int64:
    """Return the keys that crossed from one client's address to one server's port in several exchanges: the two ends of one
    exchange name the same port and place, and those of others are others, whichever of their rows are lost."""
    route = pair_codes(key, found.route)
    passage = pair_codes(route, found.passage)
    rows = np.flatnonzero(passage >= 0)
    if not len(rows):
        return rows
    each = rows[np.unique(passage[rows], return_index=True)[1]]
    _, first, count = np.unique(route[each], return_index=True, return_counts=True)
    twice: Int64 = key[each[first[count > 1]]]
    return twice


def _terminal(found: Entities, key: Int64) -> Bool:
    """Return True for server exchanges that no client exchange of the same key and process continues: no proxy's."""
    place = pair_codes(key, found.process)
    onward = np.full(int(place.max(initial=-1)) + 2, -(2**62), np.int64)
    client = ~found.server & ~found.engine & (place >= 0)
    np.maximum.at(onward, place[client], found.start[client])
    return found.server & (key >= 0) & (onward[place] < found.start)


def _merge(found: Entities, result: Grouping, pairs: tuple[Int64, Int64], name: str, evidence: int) -> None:
    """Join the attempts of each pair. What is joined is as sure as `evidence` says, but for the part that names the whole:
    the one with the response's id, a server's if there is one, else the one that comes first."""
    left, right = pairs
    fresh = result.attempt[left] != result.attempt[right]
    left, right = left[fresh], right[fresh]
    for row in right.tolist():
        result.rule[row] = name
    before, count = result.attempt, len(result.attempt)
    result.attempt = components(count, np.concatenate([np.arange(count), left]), np.concatenate([before, right]))
    anchor = np.arange(count)
    answered = np.flatnonzero(found.response >= 0)
    answered = answered[np.lexsort((-answered, found.server[answered]))]  # A server's counts, the first of them.
    anchor[result.attempt[answered]] = before[answered]
    joined = np.isin(result.attempt, result.attempt[right])
    weak = joined & (before != anchor[result.attempt])
    result.evidence[weak] = np.maximum(result.evidence[weak], evidence)


def _join_where_only_one_fits(found: Entities, result: Grouping, bearers: Int64, terminal: Bool, name: str) -> None:
    heads = bearers[terminal[bearers]]
    others = bearers[~np.isin(result.attempt[bearers], result.attempt[heads])]
    left, right = [], []
    for row in others.tolist():
        inside = heads[_fits(found, row, heads)]
        if len(np.unique(result.attempt[inside])) == 1:
            left.append(inside[0])
            right.append(row)
    pairs = np.array(left, np.int64), np.array(right, np.int64)
    _merge(found, result, pairs, f"{name}_and_interval", DERIVED)


def _fits(found: Entities, row: int, heads: Int64) -> Bool:
    """Engine requests begin inside their exchange; what lies before a server (a client, a proxy) encloses it."""
    if found.engine[row]:
        fits: Bool = (found.start[heads] <= found.start[row]) & (found.start[row] <= found.end[heads])
        return fits
    around: Bool = (
        (found.start[row] <= found.start[heads]) & (found.end[heads] <= found.end[row]) & ~found.failed[heads]
    )
    return around


def _join_requests(found: Entities, result: Grouping, shared: list[tuple[str, Int64]]) -> None:
    """Join attempts that retried one another; refuse the other bearers of a shared key."""
    edges: list[tuple[int, int]] = []
    for name, bearers in shared:
        order = _one_per_attempt(found, result, bearers)
        refused = False
        for before, after in itertools.pairwise(order.tolist()):
            if result.request[before] == result.request[after] or name == "trace_headers":
                continue  # A prefill and its decode; or one span of a caller that made several requests.
            if found.failed[before] and found.end[before] <= found.start[after]:
                edges.append((before, after))
                exact = name == "request_id" and _one_caller(found, result, bearers, before, after)
                result.retried.append((before, after, name, EXACT if exact else DERIVED))
            else:
                refused = True
        if refused:
            result.refused.append((name, bearers))
    edges += _retries_by_trace(found, result)
    result.request = _united(result.request, edges)


def _one_caller(found: Entities, result: Grouping, bearers: Int64, before: int, after: int) -> bool:
    """Say whether one process began both attempts while it served one exchange under the same id, and nothing was lost: a
    proxy's retry. A client that says one id twice may mean two requests."""
    onward = bearers[~found.server[bearers] & ~found.engine[bearers]]
    for caller in bearers[found.server[bearers] & (result.attempt[bearers] == result.attempt[after])].tolist():
        made = onward[(found.process[onward] == found.process[caller]) & (found.process[onward] >= 0)]
        made = made[(found.start[caller] <= found.start[made]) & (found.start[made] <= found.end[caller])]
        tried = {result.attempt[before], result.attempt[after]} <= set(result.attempt[made].tolist())
        if tried and found.whole[[*made.tolist(), caller, before, after]].all():
            return True
    return False


def _united(label: Int64, edges: list[tuple[int, int]]) -> Int64:
    left, right = np.array(edges, np.int64).reshape(-1, 2).T
    count = len(label)
    return components(count, np.concatenate([np.arange(count), left]), np.concatenate([label, right]))


def _one_per_attempt(found: Entities, result: Grouping, rows: Int64) -> Int64:
    """Return one entity of each attempt, the innermost server's exchange where there is one, in the order of time."""
    rows = rows[np.lexsort((-found.start[rows], ~found.server[rows], result.attempt[rows]))]
    first = rows[np.concatenate([[True], np.diff(result.attempt[rows]) != 0])]
    ordered: Int64 = first[np.argsort(found.start[first], kind="stable")]
    return ordered


def _retries_by_trace(found: Entities, result: Grouping) -> list[tuple[int, int]]:
    """Return failed attempts and those that followed within a minute in one trace: an SDK's retries keep the trace."""
    rows = np.flatnonzero(~found.engine & (found.trace >= 0))
    if not len(rows):
        return []
    rows = rows[np.lexsort((-found.start[rows], ~found.server[rows], result.attempt[rows]))]
    rows = rows[np.concatenate([[True], np.diff(result.attempt[rows]) != 0])]
    rows = rows[np.lexsort((found.start[rows], found.trace[rows]))]
    before, after = rows[:-1], rows[1:]
    gap = found.start[after] - np.minimum(found.end[before], 2**61)
    follows = (found.trace[before] == found.trace[after]) & found.failed[before] & (gap >= 0) & (gap < 60 * 10**9)
    follows &= result.request[before] != result.request[after]
    known = {(a, b) for a, b, _, _ in result.retried}
    edges = [e for e in zip(before[follows].tolist(), after[follows].tolist(), strict=True) if e not in known]
    result.retried += [(a, b, "trace_id", DERIVED) for a, b in edges]
    return edges
