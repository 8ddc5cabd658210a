"""Continuous batching: which requests get how many tokens in the next step.

Decodes come first, then prompts in chunks, as far as the token budget, the batch size and the KV blocks reach. Where blocks
run out, the request that came last loses its own and starts over: preemption by recomputation. The outputs carry vLLM's
field names, because the plugin that reads them is the one that reads vLLM's.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from demo.engine.wire import (
    LENGTH,
    PREEMPTED,
    QUEUED,
    SCHEDULED,
    EngineCoreEvent,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    PrefillStats,
    PrefixCacheStats,
)

BLOCK_TOKENS = 16


@dataclass
class Policy:
    """What an operator may set."""

    max_num_seqs: int = 32
    max_num_batched_tokens: int = 512
    kv_blocks: int = 2048


@dataclass(eq=False)
class Request:
    """One request in the engine."""

    core: EngineCoreRequest
    computed: int = 0
    fetched: int = 0
    output: int = 0
    blocks: int = 0
    seen: bool = False
    resumed: bool = False
    status: int | None = None
    events: list[EngineCoreEvent] = field(default_factory=list)

    @property
    def request_id(self) -> str:
        """The engine's id of it."""
        return self.core.request_id

    @property
    def length(self) -> int:
        """Tokens that it has: prompt and output."""
        return len(self.core.prompt_token_ids) + self.output

    @property
    def finished(self) -> bool:
        """Whether it has all the tokens that it asked for."""
        return self.output >= self.core.sampling_params.max_tokens

    def get_finished_reason(self) -> int | None:
        """Return why it ended, by vLLM's number; None where it has not."""
        return LENGTH if self.finished else self.status

    def note(self, kind: int) -> None:
        """Keep an event for its next message."""
        self.events.append(EngineCoreEvent(kind, time.monotonic()))


@dataclass
class NewRequestData:
    """A request's first step."""

    req_id: str
    prompt_token_ids: list[int]
    num_computed_tokens: int


@dataclass
class CachedRequestData:
    """The others, in columns."""

    req_ids: list[str] = field(default_factory=list)
    resumed_req_ids: set[str] = field(default_factory=set)
    num_computed_tokens: list[int] = field(default_factory=list)
    num_output_tokens: list[int] = field(default_factory=list)


@dataclass
class SchedulerOutput:
    """One step."""

    scheduled_new_reqs: list[NewRequestData] = field(default_factory=list)
    scheduled_cached_reqs: CachedRequestData = field(default_factory=CachedRequestData)
    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)
    total_num_scheduled_tokens: int = 0
    scheduled_spec_decode_tokens: dict[str, list[int]] = field(default_factory=dict)
    finished_req_ids: set[str] = field(default_factory=set)
    preempted_req_ids: set[str] = field(default_factory=set)
    members: list[tuple[Request, int]] = field(default_factory=list)


class Scheduler:
    """The engine's requests, waiting and running."""

    def __init__(self, policy: Policy) -> None:
        """Start empty."""
        self.policy = policy
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.free_blocks = policy.kv_blocks
        self.preemptions = 0
        self.cache_stats = PrefixCacheStats()
        self.impossible: list[Request] = []
        self._finished: set[str] = set()

    def add(self, core: EngineCoreRequest) -> None:
        """Queue a request."""
        request = Request(core)
        if (core.sampling_params.extra_args or {}).get("kv_transfer_params", {}).get("do_remote_prefill"):
            # The prefill engine's KV cache has come with it: all but the last token, whose logits are wanted.
            request.computed = request.fetched = len(core.prompt_token_ids) - 1
        request.note(QUEUED)
        self.waiting.append(request)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or self.waiting or self._finished)

    def resize(self, kv_blocks: int) -> None:
        """Change the size of the KV cache; requests that no longer fit are preempted by the next step."""
        self.free_blocks += kv_blocks - self.policy.kv_blocks
        self.policy.kv_blocks = kv_blocks

    def schedule(self) -> SchedulerOutput:
        """Decide the next step."""
        output = SchedulerOutput(finished_req_ids=self._finished)
        self._finished = set()
        budget = self._continue(output, self.policy.max_num_batched_tokens)
        if not output.preempted_req_ids:
            self._admit(output, budget)
        if self.waiting and not self.running and not output.members:
            self.impossible.append(self.waiting.popleft())  # The whole cache is free, and too small for it.
        output.total_num_scheduled_tokens = sum(output.num_scheduled_tokens.values())
        return output

    def _continue(self, output: SchedulerOutput, budget: int) -> int:
        """Schedule what runs already, oldest first; return what is left of the budget."""
        index = 0
        while index < len(self.running) and budget:
            request = self.running[index]
            tokens = min(request.length - request.computed, budget)
            if not self._allot(request, tokens):
                victim = self.running.pop()
                self._preempt(victim, output)
                continue
            self._schedule(output, request, tokens)
            budget -= tokens
            index += 1
        return budget

    def _admit(self, output: SchedulerOutput, budget: int) -> None:
        while self.waiting and budget and len(self.running) < self.policy.max_num_seqs:
            request = self.waiting[0]
            tokens = min(request.length - request.computed, budget)
            if not self._allot(request, tokens):
                return
            self.waiting.popleft()
            self.running.append(request)
            request.note(SCHEDULED)
            self._count(request)
            self._schedule(output, request, tokens)
            budget -= tokens

    def _count(self, request: Request) -> None:
        """A request that comes (back) asks the prefix cache, which holds nothing."""
        stats = self.cache_stats
        if request.resumed:
            stats.preempted_requests += 1
            stats.preempted_queries += request.length
        else:
            stats.requests += 1
            stats.queries += request.length

    def _allot(self, request: Request, tokens: int) -> bool:
        needed = -(-(request.computed + tokens) // BLOCK_TOKENS) - request.blocks
        if needed > self.free_blocks:
            return False
        self.free_blocks -= max(needed, 0)
        request.blocks += max(needed, 0)
        return True

    def _preempt(self, request: Request, output: SchedulerOutput) -> None:
        self.free_blocks += request.blocks
        request.blocks = request.computed = 0
        request.resumed = True
        request.note(PREEMPTED)
        self.waiting.appendleft(request)
        self.preemptions += 1
        output.preempted_req_ids.add(request.request_id)
        if output.num_scheduled_tokens.pop(request.request_id, None):
            raise AssertionError("a request is preempted after it was scheduled")

    def _schedule(self, output: SchedulerOutput, request: Request, tokens: int) -> None:
        output.num_scheduled_tokens[request.request_id] = tokens
        output.members.append((request, tokens))
        if not request.seen:
            request.seen = True
            new = NewRequestData(request.request_id, request.core.prompt_token_ids, request.computed)
            output.scheduled_new_reqs.append(new)
            return
        cached = output.scheduled_cached_reqs
        cached.req_ids.append(request.request_id)
        cached.num_computed_tokens.append(request.computed)
        cached.num_output_tokens.append(request.output)
        if request.resumed:
            cached.resumed_req_ids.add(request.request_id)
            request.resumed = False

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: Any
    ) -> dict[int, EngineCoreOutputs]:
        """Take in what the step computed; return what each request got, by client, of which there is one."""
        got = dict(zip(model_runner_output.req_ids, model_runner_output.sampled_token_ids, strict=True))
        for request, tokens in scheduler_output.members:
            request.computed += tokens
            request.output += len(got[request.request_id])
        emitted = [request for request, _ in scheduler_output.members if got[request.request_id]]
        for request in emitted:
            if request.finished:
                self._release(request)
        return {0: EngineCoreOutputs(0, [_output(request) for request in emitted])}

    def _release(self, request: Request) -> None:
        if request in self.running:
            self.running.remove(request)
        self.free_blocks += request.blocks
        request.blocks = 0
        self._finished.add(request.request_id)

    def finish_requests(self, request_ids: list[str], finished_status: int) -> list[Request]:
        """Drop requests from outside, such as those whose clients have left; return them."""
        dropped = [each for each in [*self.running, *self.waiting] if each.request_id in request_ids]
        for request in dropped:
            request.status = finished_status
            if request in self.waiting:
                self.waiting.remove(request)
            self._release(request)
        return dropped


def _output(request: Request) -> EngineCoreOutput:
    """One request's new token, with the events since its last message, and how its prompt was computed with its first."""
    prompt = len(request.core.prompt_token_ids)
    first = request.output == 1
    events, request.events = request.events, []
    return EngineCoreOutput(
        request.request_id,
        [request.output - 1],
        finish_reason=request.get_finished_reason(),
        events=events or None,
        trace_headers=request.core.trace_headers,
        prefill_stats=_prefill(prompt, request.fetched) if first else None,
    )


def _prefill(prompt: int, fetched: int) -> PrefillStats:
    return PrefillStats(prompt, prompt - fetched, fetched, 0, fetched, prompt)
