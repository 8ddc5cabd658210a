"""The step ledger: who was in each engine step, by the best that is known of the step, each row labelled.

From best to least: `plugin`, the engine's own record of the batch; `wire`, its messages, replayed (replay.py); `batches`,
ids that SGLang's trace gives its batches; `totals`, an estimate (estimate.py); `windows`, in which Triton computed requests
together (both batches.py); `spans` and `sockets`, estimates. A step takes its rows from one level only. Rows of the plugin
are kept as they came; this module makes those of the other levels, as rows of `step_member`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from correlator.joins.attribution import EVIDENCE, EXACT, Bool, Int64
from correlator.joins.estimate import Stay, estimate
from correlator.joins.replay import PREEMPTED, SCHEDULED, Members, Wire, replay
from correlator.joins.union import codes
from warpline import schema

LEVELS = ("plugin", "wire", "batches", "totals", "windows", "spans", "sockets")
CONFIDENCE: dict[str, tuple[float, float, float]] = {
    "wire": (1.0, 0.995, 0.97),
    "batches": (1.0, 0.995, 0.97),
    "windows": (1.0, 0.995, 0.97),
    "totals": (0.33, 0.995, 0.995),
    "spans": (0.995, 0.995, 0.995),
    "sockets": (0.9, 0.99, 0.995),
}
"""Probability that a row's request was in its step: on the wire and in batches that the engine names by evidence (exact,
derived, estimated), else by whether the
step came before the one that gave the first token, was it, or came after (then times the tokens known for each step).
Fitted by tests/simulator/calibrate.py on vLLM's scheduler with seed 5, over 780,000 rows; what was always right is 0.995,
and the wire's few estimated rows are set lower by hand. bench/accuracy.py scores it on another seed."""
USUAL_BUDGET = 2048
"""Tokens a step where nothing tells: vLLM's default for chunked prefill on most GPUs."""


_KINDS = {"scheduled": SCHEDULED, "resumed": SCHEDULED, "preempted": PREEMPTED}


def from_wire(
    messages: pa.Table, emissions: pa.Table, events: pa.Table, requests: pa.Table, budget: int = 0
) -> pa.RecordBatch:
    """Return rows of `step_member` from the wire of one engine; `step_ordinal` is the message's number.

    Takes rows of engine_message, engine_emission, engine_event and the last rows of engine_request, all of one engine, in
    any order and any number of times. Raises nothing: what does not fit is left out, and its time stays unattributed.
    """
    messages = _once(messages, ["message"]).sort_by("message")
    emissions = _once(emissions, ["message", "internal_id"])
    events = _once(events, ["internal_id", "kind", "time_ns"])
    numbers = messages["message"].to_numpy()
    if not len(numbers):
        return _empty()
    names, code = _names([emissions["internal_id"], events["internal_id"], requests["internal_id"]])
    emit_code, event_code, request_code = code
    step = np.searchsorted(numbers, emissions["message"].to_numpy())
    known = (step < len(numbers)) & (numbers[np.minimum(step, len(numbers) - 1)] == emissions["message"].to_numpy())
    kinds = np.array([_KINDS.get(k, -1) for k in events["kind"].cast(pa.string()).to_pylist()], np.int64)
    wire = Wire(
        number=numbers,
        sent=_whole(pc.coalesce(messages["engine_time_ns"], messages["time_ns"])),
        totals=_totals(messages),
        resumed=_whole(messages["preempted_requests"], 0),
        recomputed=_whole(messages["preempted_queried_tokens"], 0) - _whole(messages["preempted_hit_tokens"], 0),
        drafts=_drafts(messages),
        idle=(_whole(messages["running"]) == 0) & (_whole(messages["waiting"], 0) == 0),
        emit_step=step[known],
        emit_request=emit_code[known],
        emit_tokens=_whole(emissions["new_tokens"])[known],
        emit_stopped=_stopped(emissions["finish_reason"])[known],
        event_time=_whole(events["time_ns"])[kinds >= 0],
        event_request=event_code[kinds >= 0],
        event_kind=kinds[kinds >= 0],
        prompt=_best(len(names), [(request_code, requests["prompt_tokens"]), (emit_code, emissions["prompt_tokens"])]),
        computed=_best(
            len(names), [(request_code, requests["computed_tokens"]), (emit_code, emissions["computed_tokens"])]
        ),
        budget=budget,
    )
    members = replay(wire)
    sure = np.array(CONFIDENCE["wire"])[np.minimum(members.evidence, 2)]
    return _batch(members, names, wire.sent, numbers, messages, ("wire", sure))


def from_stays(steps: pa.Table, stays: pa.Table, level: str, totals: bool) -> pa.RecordBatch:
    """Return estimated rows of `step_member` for one engine.

    `steps` has process_uid, node, engine_index, ordinal, start_ns, end_ns and context_tokens; `stays` has internal_id,
    scheduled_ns, first_token_ns, last_token_ns, prompt_tokens and output_tokens.
    """
    steps = _once(steps, ["ordinal"]).sort_by("ordinal")
    stays = _once(stays, ["internal_id"]).sort_by("internal_id")
    if not len(steps) or not len(stays):
        return _empty()
    ends = _whole(steps["end_ns"])
    scheduled = _whole(stays["scheduled_ns"])
    first, last = _whole(stays["first_token_ns"]), _whole(stays["last_token_ns"])
    output = _whole(stays["output_tokens"], 0)
    stay = Stay(
        scheduled=scheduled,
        first_token=np.where(first >= 0, first, _first_tokens(ends, scheduled, last, output)),
        last_token=last,
        prompt=_whole(stays["prompt_tokens"], 1),
        output=output,
    )
    told = _whole(steps["context_tokens"], 0) if totals else None
    found = estimate(stay, _whole(steps["start_ns"]), ends, told, USUAL_BUDGET if level == "sockets" else None)
    sure = np.array(CONFIDENCE[level])[found.place] * found.chance
    names, numbers = stays["internal_id"].to_pylist(), _whole(steps["ordinal"])
    return _batch(found.members, names, ends, numbers, steps, (level, sure))


def _first_tokens(ends: Int64, scheduled: Int64, last: Int64, output: Int64) -> Int64:
    """Return when first tokens were likely made, for answers that came in one piece: a step for each token before the last,
    and not before the request's arrival."""
    place = np.searchsorted(ends, last, side="right") - np.maximum(output, 1)
    soonest = np.searchsorted(ends, scheduled)
    found: Int64 = ends[np.clip(place, np.minimum(soonest, len(ends) - 1), len(ends) - 1)]
    return found


def _batch(
    members: Members,
    names: list[str],
    times: Int64,
    numbers: Int64,
    source: pa.Table,
    known: tuple[str, NDArray[np.float64]],
) -> pa.RecordBatch:
    """Return the rows; `known` are their level and, by row, how sure they are."""
    level, sure = known
    first = {c: source[c][0].as_py() for c in ("node", "process_uid", "engine_index")}
    decode = (members.scheduled == members.draft + 1) & (members.context > 0)
    phase = np.where(members.recomputed > 0, "recompute", np.where(decode, "decode", "prefill"))
    return schema.table("step_member").batch(
        {
            "time_ns": times[members.step],
            **first,
            "step_ordinal": numbers[members.step],
            "internal_id": pa.array(names, pa.string()).take(pa.array(members.request)),
            "scheduled_tokens": members.scheduled,
            "computed_before_tokens": members.context,
            "draft_tokens": members.draft,
            "accepted_tokens": np.where(members.draft > 0, members.sampled - 1, 0),
            "recomputed_tokens": members.recomputed,
            "sampled": members.sampled > 0,
            "phase": pa.array(phase.tolist(), pa.string()),
            "level": level,
            "evidence": pa.array(EVIDENCE).take(pa.array(members.evidence)),
            "confidence": np.where(members.evidence == EXACT, 1.0, sure),
            "simulated": source["simulated"][0].as_py() if "simulated" in source.column_names else None,
        },
        rows=len(members.step),
    )


def _stopped(reasons: pa.ChunkedArray) -> Bool:
    return np.asarray(pc.equal(reasons.cast(pa.string()), "stop").fill_null(False).to_numpy(), bool)


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema.table("step_member").arrow)


def _once(rows: pa.Table, keys: list[str]) -> pa.Table:
    """Return rows without those whose keys came before, in the order of the keys."""
    plain = pa.table({k: rows[k].cast(pa.string()) if pa.types.is_dictionary(rows[k].type) else rows[k] for k in keys})
    order = pc.sort_indices(plain, [(k, "ascending") for k in keys])
    rows = rows.take(order)
    parts = [rows[k].cast(pa.string()) for k in keys]
    code = codes(pc.binary_join_element_wise(*parts, "\x1f") if len(parts) > 1 else parts[0])
    return rows.filter(pa.array(np.concatenate([[True], code[1:] != code[:-1]]) if len(code) else np.zeros(0, bool)))


def _names(columns: list[pa.ChunkedArray]) -> tuple[list[str], list[Int64]]:
    """Return all names in their order, and each column as places in them."""
    joined = pa.chunked_array([c for column in columns for c in column.cast(pa.string()).chunks], pa.string())
    names = pc.unique(joined).sort()
    places = pc.index_in(joined, value_set=names).to_numpy().astype(np.int64)
    return names.to_pylist(), np.split(places, np.cumsum([len(c) for c in columns])[:-1])


def _whole(column: Any, missing: int = -1) -> Int64:
    return np.asarray(column.cast(pa.int64()).fill_null(missing).to_numpy(), np.int64)


def _totals(messages: pa.Table) -> Int64:
    both = pc.add(messages["context_tokens"], messages["generation_tokens"])
    return _whole(both)


def _drafts(messages: pa.Table) -> Int64:
    """Return how many drafts each drafted request of a step had; 0 for none, -1 where the message has no totals at all."""
    drafted, tokens = _whole(messages["drafted_requests"], 0), _whole(messages["draft_tokens"], 0)
    none = np.where(_whole(messages["running"]) < 0, -1, 0)
    return np.where(drafted > 0, -(-tokens // np.maximum(drafted, 1)), none)


def _best(count: int, sources: list[tuple[Int64, pa.ChunkedArray]]) -> Int64:
    """Return the largest known value by request: what is told later is more complete."""
    best = np.full(count, -1, np.int64)
    for code, column in sources:
        np.maximum.at(best, code, _whole(column))
    return best
