"""The step ledger of one engine, from the records of its step ring.

A step's record tells tokens by request; what they mean (prefill, decode, tokens computed before and lost) follows from the
request's prompt and from how far it had come. Each step is a few passes over arrays; nothing is done request by request.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from collectors.rings.step_file import EXECUTED, FINISHED, SCHEDULED, TRANSFER, UPDATED, StepRecord
from collectors.wire import vllm_messages

Ints = npt.NDArray[np.int64]
_SCHEDULED = struct.Struct("<qqq8I")
_UPDATED = struct.Struct("<qqII")
_EXECUTED = struct.Struct("<qqqqqiiI4x")
_FINISHED = struct.Struct("<qqII")
_TRANSFER = struct.Struct("<qqII")
_DIRECTIONS = ("received", "sent")
_OUTCOMES = (None, "done", "failed", "aborted")
PHASES = ("decode", "prefill", "recompute")
DECODE, PREFILL, RECOMPUTE = range(3)
_UNKNOWN = -1


@dataclass(slots=True)
class Step:
    """One step with its members, in columns. Times are of CLOCK_MONOTONIC; `end_ns` is 0 while its output is not known."""

    ordinal: int
    start_ns: int
    ids: list[str]
    tokens: Ints
    computed: Ints
    cached: Ints
    drafts: Ints
    recomputed: Ints
    phase: Ints
    preempted: int
    member_hash: int
    sampled: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    end_ns: int = 0


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank's run of a step."""

    ordinal: int
    start_ns: int
    end_ns: int
    tokens: int
    member_hash: int
    thread_id: int
    rank: int
    dummy: bool


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a request's state."""

    time_ns: int
    internal_id: str
    kind: str
    ordinal: int | None


@dataclass(frozen=True, slots=True)
class Transfer:
    """One KV transfer, as its engine's scheduler saw it begin and end."""

    start_ns: int
    end_ns: int
    direction: str
    outcome: str | None
    internal_id: str
    transfer_id: str | None


@dataclass(slots=True)
class Known:
    """What is known of a request. `prompt` is -1 where its first step was not seen."""

    slot: int
    start_ns: int
    prompt: int
    cached: int
    preemptions: int = 0
    output: int = 0
    end_ns: int | None = None
    reason: str | None = None


@dataclass
class Changes:
    """What a batch of records told: steps that are complete, runs of ranks, events, requests that changed, transfers."""

    steps: list[Step] = field(default_factory=list)
    ranks: list[Rank] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    requests: dict[str, Known] = field(default_factory=dict)
    transfers: list[Transfer] = field(default_factory=list)
    malformed: int = 0


class Ledger:
    """State of one engine's requests. Steps are held until their output is known, or `patience_ns` has gone by."""

    def __init__(self, patience_ns: int = 2_000_000_000) -> None:
        """Know nothing yet."""
        self._patience_ns = patience_ns
        self._known: dict[str, Known] = {}
        self._pending: dict[int, Step] = {}
        self._reached = np.zeros(256, np.int64)
        self._prompts = np.full(256, _UNKNOWN, np.int64)
        self._free: list[int] = list(range(256))

    def add(self, records: Sequence[StepRecord], now_ns: int, ended: bool = False) -> Changes:
        """Take records in their order; return what they tell. With `ended`, steps without output are returned too."""
        changes = Changes()
        for record in records:
            try:
                self._one(record, changes)
            except (struct.error, ValueError, LookupError):
                changes.malformed += 1
        for ordinal, step in list(self._pending.items()):
            if ended or now_ns - step.start_ns > self._patience_ns:
                changes.steps.append(self._pending.pop(ordinal))
        return changes

    def _one(self, record: StepRecord, changes: Changes) -> None:
        if record.kind == SCHEDULED:
            self._scheduled(record.payload, changes)
        elif record.kind == UPDATED:
            self._updated(record.payload, changes)
        elif record.kind == EXECUTED:
            ordinal, start, end, tokens, mark, thread, rank, flags = _EXECUTED.unpack_from(record.payload)
            changes.ranks.append(Rank(ordinal, start, end, tokens, mark, thread, rank, bool(flags & 1)))
        elif record.kind == FINISHED:
            self._ended(record.payload, changes)
        elif record.kind == TRANSFER:
            changes.transfers.append(_transfer(record.payload))
        else:
            raise ValueError(f"kind {record.kind}")

    def _scheduled(self, payload: bytes, changes: Changes) -> None:
        ordinal, now, total, new, members, drafts, resumed, preempted, finished, _, _ = _SCHEDULED.unpack_from(payload)
        columns = _columns(payload, _SCHEDULED.size, (members, members, new, members - new, drafts))
        tokens, computed, prompts, _, draft_tokens = columns
        texts = payload[_SCHEDULED.size + 4 * sum(map(len, columns)) :].rstrip(b"\0")
        names = iter(texts.decode("utf-8", "replace").split("\0"))
        ids, with_drafts, again, put_out, done = (
            [next(names, "") for _ in range(count)] for count in (members, drafts, resumed, preempted, finished)
        )
        if int(tokens.sum()) != total:
            raise ValueError(f"step {ordinal}: members have {tokens.sum()} tokens, in all {total}")
        self._finish(done, now, ordinal, changes)
        self._preempt(put_out, now, ordinal, changes)
        changes.events += [Event(now, each, "resumed", ordinal) for each in again]
        slots, first = self._admit(ids, prompts, computed, now, ordinal, changes)
        step = self._step(ordinal, now, ids, slots, (tokens, computed))
        step.preempted = preempted
        fresh = first | np.isin(np.asarray(ids, object), again) if again else first
        step.cached = np.where(fresh, computed, 0)
        if with_drafts:
            place = {each: n for n, each in enumerate(ids)}
            step.drafts[[place[each] for each in with_drafts]] = draft_tokens
        raw = "\0".join(ids).encode("utf-8", "replace")
        step.member_hash = crc32(tokens.astype("<i4").tobytes(), crc32(raw))
        self._pending[ordinal] = step

    def _step(self, ordinal: int, now: int, ids: list[str], slots: Ints, amounts: tuple[Ints, Ints]) -> Step:
        """Tell each member's phase, and how many of its tokens had been computed before and lost."""
        tokens, computed = amounts
        reached, prompts = self._reached[slots], self._prompts[slots]
        recomputed = np.clip(np.minimum(computed + tokens, reached) - computed, 0, None)
        self._reached[slots] = np.maximum(reached, computed + tokens)
        inside_prompt = np.where(prompts == _UNKNOWN, tokens > 1, computed < prompts)
        phase = np.where(recomputed > 0, RECOMPUTE, np.where(inside_prompt, PREFILL, DECODE))
        none = np.zeros(len(ids), np.int64)
        return Step(ordinal, now, ids, tokens, computed, none, none.copy(), recomputed, phase, 0, 0)

    def _admit(
        self, ids: list[str], prompts: Ints, computed: Ints, now: int, ordinal: int, changes: Changes
    ) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Return the members' slots, and which are here for the first time."""
        first = np.zeros(len(ids), bool)
        missing = [n for n, each in enumerate(ids) if each not in self._known]
        for n in missing:
            prompt = int(prompts[n]) if n < len(prompts) else _UNKNOWN
            known = Known(self._slot(), now, prompt, int(computed[n]))
            self._known[ids[n]] = known
            self._prompts[known.slot], self._reached[known.slot] = prompt, int(computed[n])
            changes.events.append(Event(now, ids[n], "scheduled", ordinal))
            changes.requests[ids[n]] = known
            first[n] = prompt != _UNKNOWN
        return np.fromiter((self._known[each].slot for each in ids), np.int64, len(ids)), first

    def _slot(self) -> int:
        if not self._free:
            size = len(self._reached)
            self._reached = np.concatenate([self._reached, np.zeros(size, np.int64)])
            self._prompts = np.concatenate([self._prompts, np.full(size, _UNKNOWN, np.int64)])
            self._free = list(range(size, 2 * size))
        return self._free.pop()

    def _finish(self, ids: list[str], now: int, ordinal: int, changes: Changes) -> None:
        """The scheduler names those that finished with the next step: the time is that step's, an upper bound. Of most it
        is known already."""
        for each in ids:
            self._end(each, now, ordinal, None, changes)

    def _ended(self, payload: bytes, changes: Changes) -> None:
        ordinal, now, count, _ = _FINISHED.unpack_from(payload)
        (reasons,) = _columns(payload, _FINISHED.size, (count,))
        ids = payload[_FINISHED.size + 4 * count :].rstrip(b"\0").decode("utf-8", "replace").split("\0")[:count]
        for each, number in zip(ids, reasons.tolist(), strict=True):
            self._end(each, now, ordinal if ordinal >= 0 else None, vllm_messages.finish_reason(number), changes)

    def _end(self, internal_id: str, now: int, ordinal: int | None, reason: str | None, changes: Changes) -> None:
        known = self._known.pop(internal_id, None)
        if known is not None:
            known.end_ns, known.reason = now, reason
            self._free.append(known.slot)
            changes.events.append(Event(now, internal_id, "aborted" if reason == "abort" else "finished", ordinal))
            changes.requests[internal_id] = known

    def _preempt(self, ids: list[str], now: int, ordinal: int, changes: Changes) -> None:
        for each in ids:
            changes.events.append(Event(now, each, "preempted", ordinal))
            if each in self._known:
                self._known[each].preemptions += 1
                changes.requests[each] = self._known[each]

    def _updated(self, payload: bytes, changes: Changes) -> None:
        ordinal, now, count, _ = _UPDATED.unpack_from(payload)
        (sampled,) = _columns(payload, _UPDATED.size, (count,))
        ids = payload[_UPDATED.size + 4 * count :].rstrip(b"\0").decode("utf-8", "replace").split("\0")[:count]
        step = self._pending.pop(ordinal)
        got: dict[str, Any] = dict(zip(ids, sampled.tolist(), strict=True))
        step.sampled = np.fromiter((got.get(each, 0) for each in step.ids), np.int64, len(step.ids))
        step.end_ns = now
        for each, tokens in got.items():
            known = self._known.get(each)
            if known is not None and tokens:
                if not known.output:
                    changes.events.append(Event(now, each, "first_token", ordinal))
                known.output += tokens
        changes.steps.append(step)


def _transfer(payload: bytes) -> Transfer:
    start, end, direction, outcome = _TRANSFER.unpack_from(payload)
    internal_id, known = payload[_TRANSFER.size :].rstrip(b"\0").decode("utf-8", "replace").partition("\0")[::2]
    if not internal_id or end < start:
        raise ValueError(f"transfer of {internal_id!r} from {start} to {end}")
    return Transfer(start, end, _DIRECTIONS[direction], _OUTCOMES[outcome], internal_id, known or None)


def _columns(payload: bytes, at: int, lengths: Sequence[int]) -> list[Ints]:
    """Return int32 columns that lie one behind the other, widened."""
    found = []
    for length in lengths:
        found.append(np.frombuffer(payload, "<i4", length, at).astype(np.int64))
        at += 4 * length
    return found
