"""Step ledgers where neither the plugin nor the wire's emissions say who was in a step: from batches that an engine names
(batches.py), from events, spans, or sockets.

What is known of the last three is when a request was in its engine, and when steps were. Steps are the engine's messages,
where those came without emissions (at detail 1), else what the GPU ran between two copies of tokens to the host. Requests
meet the process that ran them by the family of the process that served them; where only one process ran anything, it was
that one. Where several could have, none is chosen: their time stays unattributed.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins.batches import Ledger, from_batches, from_windows
from correlator.joins.executions import Query, load
from correlator.joins.membership import from_stays

_STAY = ("internal_id", "scheduled_ns", "first_token_ns", "last_token_ns", "prompt_tokens", "output_tokens")


def from_events(messages: pa.Table, events: pa.Table, requests: pa.Table) -> pa.RecordBatch:
    """Return estimated rows of `step_member` from an engine's messages without emissions, its events and requests.

    At level `totals` where the messages tell the tokens of their steps, else at level `spans`.
    """
    kinds = events["kind"].cast(pa.string())
    at = {
        column: events.filter(pc.is_in(kinds, value_set=pa.array([kind])))
        .group_by("internal_id")
        .aggregate([("time_ns", how)])
        .rename_columns(["internal_id", column])
        for column, kind, how in (
            ("scheduled_ns", "scheduled", "min"),
            ("first_token_ns", "first_token", "min"),
            ("last_token_ns", "finished", "max"),
        )
    }
    known = requests.group_by("internal_id").aggregate(
        [("computed_tokens", "max"), ("prompt_tokens", "max"), ("output_tokens", "max")]
    )
    stays = known.join(at["scheduled_ns"], "internal_id", join_type="inner")
    for column in ("first_token_ns", "last_token_ns"):
        stays = stays.join(at[column], "internal_id", join_type="inner")
    prompt = pc.coalesce(stays["computed_tokens_max"], stays["prompt_tokens_max"])
    stays = stays.append_column("prompt_tokens", prompt).append_column("output_tokens", stays["output_tokens_max"])
    ends = pc.coalesce(messages["engine_time_ns"], messages["time_ns"])
    steps = pa.table(
        {
            **{c: messages[c] for c in ("node", "process_uid", "engine_index", "context_tokens")},
            "ordinal": messages["message"],
            "start_ns": _begins(messages, ends),
            "end_ns": ends,
        }
    )
    told = pc.all(pc.is_valid(messages["context_tokens"])).as_py()
    return from_stays(steps, stays.select(list(_STAY)), "totals" if told else "spans", bool(told))


def _begins(messages: pa.Table, ends: pa.ChunkedArray) -> pa.Array:
    """Return when each message's step began at the latest: at the message before it."""
    order = pc.sort_indices(messages["message"])
    sorted_ends = ends.take(order).to_numpy()
    begins = sorted_ends.copy()
    begins[1:] = sorted_ends[:-1]
    back = pc.sort_indices(order)
    return pa.array(begins).take(back)


def from_sight(query: Query, since_ns: int, until_ns: int) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch]]:
    """Return rows of `step_member` for processes whose executions alone are known, by the batches that their engine named
    and by the requests around them; and rows of `engine_step` for the batches."""
    window = {"since_ns": since_ns, "until_ns": until_ns}
    steps = query(load("copy_step"), window)
    if not len(steps):
        return [], []
    named = [*from_batches(query, window, steps), *from_windows(query, window, steps)]
    members = [each.members for each in named] + [_beside(rows, named) for rows in _around(query, window, steps)]
    return members, [each.steps for each in named]


def _beside(rows: pa.RecordBatch, named: list[Ledger]) -> pa.RecordBatch:
    """Return the rows of one process without those of steps that its engine named."""
    mine = [each.covered for each in named if len(rows) and each.process_uid == rows["process_uid"][0].as_py()]
    return rows.filter(pa.array(~np.isin(rows["step_ordinal"].to_numpy(), np.concatenate(mine)))) if mine else rows


def _around(query: Query, window: dict[str, int], steps: pa.Table) -> list[pa.RecordBatch]:
    stays = query(load("stay"), window)
    family = query(load("family"), {})
    parent = dict(zip(family["process_uid"].to_pylist(), family["parent_uid"].to_pylist(), strict=True))
    runners = pc.unique(steps["process_uid"].cast(pa.string())).to_pylist()
    served = stays["process_uid"].cast(pa.string())
    makers = {uid: _runners(uid, runners, parent) for uid in pc.unique(served).to_pylist()}
    found = []
    for runner in runners:
        mine = pc.is_in(served, value_set=pa.array([u for u, r in makers.items() if runner in r], pa.string()))
        its = steps.filter(pc.equal(steps["process_uid"].cast(pa.string()), runner))
        for level in ("spans", "sockets"):
            chosen = stays.filter(pc.and_(mine, pc.equal(stays["level"].cast(pa.string()), level)))
            found.append(from_stays(its, chosen.select(list(_STAY)), level, False))
    return found


def _runners(server: str | None, runners: list[str], parent: dict[str, str | None]) -> list[str]:
    """Return the processes that ran what `server` served: all its ranks, never two engines."""
    if len(runners) == 1:
        return runners
    near = [r for r in runners if r == server or _ancestors(r, parent) & {server} - {None}]
    return near if server is not None else []


def _ancestors(uid: str, parent: dict[str, str | None]) -> set[str | None]:
    found: set[str | None] = set()
    above = parent.get(uid)
    while above is not None and above not in found:
        found.add(above)
        above = parent.get(above)
    return found
