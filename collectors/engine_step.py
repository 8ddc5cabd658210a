"""Which requests each engine step computed, and with how many tokens: the step ledger, exact, from inside vLLM.

Hook: the plugin `warpline-vllm`, installed in the engine's environment, writes a ring file into a directory shared with the
collector (setting `ring_dir`). Needs vLLM 0.33 (its SchedulerOutput), any Linux kernel, and write access to the ring
directory. Costs less than 50 µs of the engine's time per step at 256 requests; the collector reads arrays.

It gives steps (the scheduler's own row, and one for each rank that ran them), their members with phase, context, draft and
recomputed tokens, and what of requests' lives a scheduler knows: it does not know the id that the API server gave a request
before it made the engine's of it.

It gives KV transfers between the moments that the scheduler saw, which are bounds: it begins to wait before the first byte
moves, and hears that it need not after the last one has. One is told when it has ended. How many bytes it moved no scheduler
knows, nor whether a cache that was kept to be sent was fetched: these stay NULL. A cache loaded within a step is not told.

Records that a full ring lost are counted; a plugin that switched itself off says why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from collectors.rings import folder
from collectors.rings.ledger import DECODE, PHASES, Changes, Ledger, Rank, Step
from collectors.rings.step_file import StepFile
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

log = logging.getLogger(__name__)

ENGINE_STEP = schema.table("engine_step")
STEP_MEMBER = schema.table("step_member")
ENGINE_REQUEST = schema.table("engine_request")
ENGINE_EVENT = schema.table("engine_event")
KV_TRANSFER = schema.table("kv_transfer")
TABLES = (ENGINE_STEP, STEP_MEMBER, ENGINE_REQUEST, ENGINE_EVENT, KV_TRANSFER)
SCOPE = "node"

_POLL_S = 0.1
_PHASES = pa.array(PHASES)


def check(settings: Settings) -> str | None:
    """Return why rings cannot be read here, or None."""
    return folder.why_not(settings)


@dataclass
class _Engine:
    """One step ring, and what is known of its process."""

    file: StepFile
    process_uid: str
    offset_ns: int
    ledger: Ledger = field(default_factory=Ledger)
    said: str = ""
    last_ns: int = 0


def run(context: Context) -> Iterator[Batch]:
    """Yield what the step rings say until told to stop; what they hold at that moment is still read."""
    yield Batch(ENGINE_STEP, pa.RecordBatch.from_pylist([], ENGINE_STEP.arrow))  # Up, though no engine may run yet.

    def read(engine: _Engine, ended: bool, stopping: bool) -> Iterator[Batch]:
        return _read(context, engine, ended or stopping)

    yield from folder.follow(context, "steps-*.ring", _POLL_S, StepFile, _watch, read)


def _watch(file: StepFile, writer: folder.Writer) -> _Engine:
    return _Engine(file, writer.process_uid, writer.offset_ns, last_ns=file.opened_ns + writer.offset_ns)


def _read(context: Context, engine: _Engine, ended: bool) -> Iterator[Batch]:
    records, lost = engine.file.take()
    context.lost("step ring overrun", lost, engine.last_ns, process_uid=engine.process_uid)
    if engine.file.reason != engine.said:
        engine.said = engine.file.reason
        log.warning("process %s: %s", engine.process_uid, engine.said)
        context.lost(engine.said, 1, lower_bound=True, process_uid=engine.process_uid)
    changes = engine.ledger.add(records, time.monotonic_ns(), ended)
    context.lost("malformed step record", changes.malformed, process_uid=engine.process_uid)
    if records:
        engine.last_ns = context.clock.now_ns()
    common = {
        "node": context.node,
        "process_uid": engine.process_uid,
        "engine_index": engine.file.engine_index,
        "simulated": True if engine.file.simulated else None,
    }
    if changes.steps:
        yield _members(engine, changes.steps, common)
    if changes.steps or changes.ranks:
        yield _steps(engine, changes, {**common, "observed_by": context.name})
    if changes.transfers:
        yield _transfers(engine, changes, context.node)
    if changes.requests:
        yield _requests(engine, changes, {**common, "observed_by": context.name})
    if changes.events:
        yield _events(engine, changes, {**common, "observed_by": context.name})


def _members(engine: _Engine, steps: list[Step], common: dict[str, Any]) -> Batch:
    counts = [len(step.ids) for step in steps]

    def column(name: str) -> Any:
        return np.concatenate([getattr(step, name) for step in steps])

    def per_step(values: list[int]) -> Any:
        return np.repeat(np.array(values, np.int64), counts)

    known = np.repeat([bool(step.end_ns) for step in steps], counts)
    sampled = np.concatenate([step.sampled if step.end_ns else np.zeros(len(step.ids), np.int64) for step in steps])
    drafts = column("drafts")
    columns = {
        **common,
        "time_ns": per_step([step.start_ns + engine.offset_ns for step in steps]),
        "step_ordinal": per_step([step.ordinal for step in steps]),
        "internal_id": [each for step in steps for each in step.ids],
        "scheduled_tokens": column("tokens"),
        "computed_before_tokens": column("computed"),
        "cached_tokens": column("cached"),
        "draft_tokens": drafts,
        "accepted_tokens": pa.array(np.where(drafts > 0, np.maximum(sampled - 1, 0), 0), mask=~known),
        "recomputed_tokens": column("recomputed"),
        "sampled": pa.array(sampled > 0, mask=~known),
        "phase": pa.DictionaryArray.from_arrays(pa.array(column("phase").astype(np.int32)), _PHASES),
        "level": "plugin",
        "evidence": "exact",
        "confidence": 1.0,
    }
    return Batch(STEP_MEMBER, STEP_MEMBER.batch(columns, rows=sum(counts)))


def _steps(engine: _Engine, changes: Changes, common: dict[str, Any]) -> Batch:
    """One row for each step as the scheduler made it, and one for each rank that ran one."""
    steps, ranks, offset = changes.steps, changes.ranks, engine.offset_ns
    rows: list[Step | Rank] = [*steps, *ranks]
    none: list[None] = [None] * len(ranks)
    nothing: list[None] = [None] * len(steps)
    decode = [int(step.tokens[step.phase == DECODE].sum()) for step in steps]
    totals = [int(step.tokens.sum()) for step in steps]
    columns = {
        **common,
        "start_ns": [each.start_ns + offset for each in rows],
        "end_ns": [each.end_ns + offset if each.end_ns else None for each in rows],
        "rank": [*nothing, *(each.rank for each in ranks)],
        "ordinal": [each.ordinal for each in rows],
        "thread_id": [*nothing, *(each.thread_id for each in ranks)],
        "requests": [*(len(step.ids) for step in steps), *none],
        "context_tokens": [*(total - part for total, part in zip(totals, decode, strict=True)), *none],
        "generation_tokens": [*decode, *none],
        "scheduled_tokens": [*totals, *(each.tokens for each in ranks)],
        "preempted": [*(step.preempted for step in steps), *none],
        "recomputed_tokens": [*(int(step.recomputed.sum()) for step in steps), *none],
        "dummy": [*(False for _ in steps), *(each.dummy for each in ranks)],
        "member_hash": [each.member_hash for each in rows],
    }
    return Batch(ENGINE_STEP, ENGINE_STEP.batch(columns, rows=len(rows)))


def _requests(engine: _Engine, changes: Changes, common: dict[str, Any]) -> Batch:
    known = list(changes.requests.values())
    columns = {
        **common,
        "start_ns": [each.start_ns + engine.offset_ns for each in known],
        "end_ns": [None if each.end_ns is None else each.end_ns + engine.offset_ns for each in known],
        "internal_id": list(changes.requests),
        "prompt_tokens": [each.prompt if each.prompt >= 0 else None for each in known],
        "cached_tokens": [each.cached if each.prompt >= 0 else None for each in known],
        "output_tokens": [each.output for each in known],
        "preemptions": [each.preemptions for each in known],
        "finish_reason": [each.reason for each in known],
    }
    return Batch(ENGINE_REQUEST, ENGINE_REQUEST.batch(columns, rows=len(known)))


def _events(engine: _Engine, changes: Changes, common: dict[str, Any]) -> Batch:
    columns = {
        **common,
        "time_ns": [each.time_ns + engine.offset_ns for each in changes.events],
        "internal_id": [each.internal_id for each in changes.events],
        "kind": [each.kind for each in changes.events],
        "step_ordinal": [each.ordinal for each in changes.events],
    }
    return Batch(ENGINE_EVENT, ENGINE_EVENT.batch(columns, rows=len(changes.events)))


def _transfers(engine: _Engine, changes: Changes, node: str) -> Batch:
    found = changes.transfers
    columns = {
        "node": node,
        "process_uid": engine.process_uid,
        "simulated": True if engine.file.simulated else None,
        "start_ns": [each.start_ns + engine.offset_ns for each in found],
        "end_ns": [each.end_ns + engine.offset_ns for each in found],
        "internal_id": [each.internal_id for each in found],
        "transfer_id": [each.transfer_id for each in found],
        "direction": [each.direction for each in found],
        "outcome": [each.outcome for each in found],
    }
    return Batch(KV_TRANSFER, KV_TRANSFER.batch(columns, rows=len(found)))
