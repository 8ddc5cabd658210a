"""What is known for certain of bearers of one id, whatever of their kind was lost.

An id that a server drew at random names one exchange. One made of x-request-id, and trace headers, are the sender's:
retries, hedged requests and careless clients repeat them. Where the rows of the one's exchange and of the other's engine
request are lost, what is left bears one id and is not one. So of ids that can be repeated an edge is exact only on one node,
between a server's exchange and what began while it lasted (or in which it began), one candidate alone bearing the id on
either side, and no loss counted since. Rows that nobody knew to be lost are the assumption of all that is derived.
"""

from __future__ import annotations

import numpy as np

from correlator.joins.entities import Bool, Entities
from correlator.joins.pairing import SLACK_NS
from correlator.joins.union import Int64, pair_codes, star


def certain(found: Entities, key: Int64, responses: bool, phases: list[tuple[int, int]]) -> tuple[Int64, Int64]:
    """Return pairs of rows that are of one attempt for certain; `key` is -1 where it says nothing. Of `responses` the key is
    the response's id; `phases` are pairs of engine requests of which one names the other."""
    if not (key >= 0).any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = np.flatnonzero((key >= 0) & (found.node >= 0))  # Rows without a node's name are not of one node.
    heads = _heads(found, rows, pair_codes(key[rows], found.node[rows]))
    sure = (found.own[rows] & responses) | (found.whole[rows] & found.whole[heads])
    same = sure & _together(found, heads, rows, 0)
    pairs = [(heads[same], rows[same])]
    far = np.flatnonzero((key >= 0) & found.own & responses)
    heads = _heads(found, far, key[far])
    near = _together(found, heads, far, SLACK_NS)
    pairs.append((heads[near], far[near]))
    samples = pair_codes(np.where(found.suffixed, pair_codes(found.process, found.internal), -1), key)
    pairs.append(star(samples))
    named = np.array(phases, np.int64).reshape(-1, 2)
    pairs.append(tuple(named[(key[named[:, 0]] >= 0) & (key[named[:, 0]] == key[named[:, 1]])].T))
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return left, right


def _heads(found: Entities, rows: Int64, place: Int64) -> Int64:
    """Return for each of `rows` the innermost server's exchange of its place, else the first row of it."""
    if not len(rows):
        return rows
    order = np.lexsort((-found.start[rows], ~found.server[rows], place))
    first = np.concatenate([[True], np.diff(place[order]) != 0])
    group = np.cumsum(first) - 1
    heads = np.empty(len(rows), np.int64)
    heads[order] = rows[order[first]][group]
    return heads


def _together(found: Entities, heads: Int64, rows: Int64, slack_ns: int) -> Bool:
    """Return where a head is a server's exchange and a row began while it lasted, or, if no engine's, was there before."""
    start, begin = found.start[rows], found.start[heads]
    within = (begin - slack_ns <= start) & (start <= found.end[heads] + slack_ns)
    around = ~found.engine[rows] & (start - slack_ns <= begin) & (begin <= found.end[rows] + slack_ns)
    together: Bool = found.server[heads] & (within | around)
    return together
