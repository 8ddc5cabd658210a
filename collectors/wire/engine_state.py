"""One engine as its messages tell of it: requests by id, and rows of its tables."""

from __future__ import annotations

import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from collectors.wire import vllm_messages as vllm

MOST_REQUESTS = 65536
"""Requests that may be open at once: the oldest beyond it are let go, and counted."""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-")

REQUEST_COLUMNS = (
    *("start_ns", "end_ns", "internal_id", "external_id", "trace_id", "parent_span_id", "prompt_tokens"),
    *("cached_tokens", "computed_tokens", "output_tokens", "preemptions", "finish_reason", "role"),
    *("remote_request_id", "transfer_id"),
)
EVENT_COLUMNS = ("time_ns", "internal_id", "kind")
EMISSION_COLUMNS = (
    *("time_ns", "message", "internal_id", "new_tokens", "finish_reason"),
    *("prompt_tokens", "computed_tokens", "cached_tokens"),
)
MESSAGE_COLUMNS = (
    *("time_ns", "message", "engine_time_ns", "running", "waiting", "kv_used_ratio", "context_tokens"),
    *(
        "generation_tokens",
        "preempted_requests",
        "preempted_queried_tokens",
        "preempted_hit_tokens",
        "drafted_requests",
    ),
    *("draft_tokens", "message_bytes"),
)


@dataclass(slots=True)
class _Request:
    start_ns: int
    external_id: str | None = None
    trace_id: bytes | None = None
    parent_span_id: int | None = None
    prompt: int | None = None
    cached: int | None = None
    computed: int | None = None
    output: int = 0
    preemptions: int = 0
    out: bool = False
    """True while it is preempted."""
    role: str | None = None
    remote_id: str | None = None
    transfer_id: str | None = None

    def row(self, internal_id: str, end_ns: int | None, reason: str | None) -> tuple[Any, ...]:
        """Return its row of engine_request, in the order of REQUEST_COLUMNS."""
        return (
            *(self.start_ns, end_ns, internal_id, self.external_id, self.trace_id, self.parent_span_id, self.prompt),
            *(self.cached, self.computed, self.output, self.preemptions, reason, self.role),
            *(self.remote_id, self.transfer_id),
        )


@dataclass
class Engine:
    """What is known of one engine process, and rows that were not taken yet."""

    to_node_ns: Callable[[float], int]
    """Node time of a reading in s of the engine's CLOCK_MONOTONIC."""
    index: int = 0
    messages: int = 0
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: defaultdict(list))
    forgotten: int = 0
    _requests: dict[str, _Request] = field(default_factory=dict)
    _iteration: int | None = None

    def take(self) -> dict[str, dict[str, list[Any]]]:
        """Return the rows made since the last call: columns by table."""
        taken, self.rows = self.rows, defaultdict(list)
        names = {
            "engine_request": REQUEST_COLUMNS,
            "engine_event": EVENT_COLUMNS,
            "engine_emission": EMISSION_COLUMNS,
            "engine_message": MESSAGE_COLUMNS,
        }
        return {
            table: dict(zip(names[table], map(list, zip(*rows, strict=True)), strict=True))
            for table, rows in taken.items()
            if rows
        }

    def add_request(self, said: vllm.Request, time_ns: int) -> None:
        """Take in a request on its way to the engine."""
        request = _Request(time_ns, said.external_req_id, prompt=vllm.length(said.prompt_token_ids))
        request.trace_id, request.parent_span_id = _trace(said.trace_headers)
        extra = said.sampling_params.extra_args if said.sampling_params else None
        _disaggregated(request, extra.kv_transfer_params if extra else None)
        self._keep(said.request_id, request)
        self.rows["engine_request"].append(request.row(said.request_id, None, None))

    def add_aborts(self, internal_ids: list[str], time_ns: int) -> None:
        """Take in what an API server gives up."""
        for each in internal_ids:
            request = self._requests.pop(each, None)
            if request is not None:
                self.rows["engine_event"].append((time_ns, each, "aborted"))
                self.rows["engine_request"].append(request.row(each, time_ns, "abort"))

    def add_outputs(self, said: vllm.Outputs, time_ns: int, body_bytes: int, after_gap: bool) -> None:
        """Take in what one step put out."""
        self.index = said.engine_index
        self._number(said, after_gap)
        engine_ns = self.to_node_ns(said.timestamp)
        stats = said.scheduler_stats or vllm.Stats()
        details, cache = stats.iteration_details or vllm.Details(), stats.prefix_cache_stats
        again = (cache.preempted_requests, cache.preempted_queries, cache.preempted_hits) if cache else (None,) * 3
        drafts = stats.spec_decoding_stats
        drafted = (drafts.num_drafts, drafts.num_draft_tokens) if drafts else (None,) * 2
        self.rows["engine_message"].append(
            (
                *(time_ns, self.messages, engine_ns, stats.num_running_reqs, stats.num_waiting_reqs),
                *(
                    stats.kv_cache_usage,
                    details.num_ctx_tokens,
                    details.num_generation_tokens,
                    *again,
                    *drafted,
                    body_bytes,
                ),
            )
        )
        emissions = self.rows["engine_emission"]
        for output in said.outputs:
            tokens, reason = vllm.length(output.new_token_ids) or 0, vllm.finish_reason(output.finish_reason)
            request = self._requests.get(output.request_id)
            if request is None:
                request = _Request(engine_ns)
                request.trace_id, request.parent_span_id = _trace(output.trace_headers)
                self._keep(output.request_id, request)
            told: tuple[int | None, ...] = (None, None, None)
            if output.events or output.prefill_stats or reason or not request.output:
                told = self._change(output, request, tokens, reason, engine_ns)
            request.output += tokens
            emissions.append((time_ns, self.messages, output.request_id, tokens, reason, *told))
            if reason is not None:
                del self._requests[output.request_id]
                self.rows["engine_request"].append(request.row(output.request_id, engine_ns, reason))

    def _number(self, said: vllm.Outputs, after_gap: bool) -> None:
        """Number the message. The engine's own count of steps tells how many were lost; without it, at least one was."""
        details = said.scheduler_stats.iteration_details if said.scheduler_stats else None
        before, self._iteration = self._iteration, details.iteration_index if details else None
        step = 1
        if after_gap and self.messages:
            known = before is not None and self._iteration is not None and self._iteration > before
            step = self._iteration - before if known and before is not None and self._iteration is not None else 2
        self.messages += step

    def _change(
        self, output: vllm.Output, request: _Request, tokens: int, reason: str | None, engine_ns: int
    ) -> tuple[int | None, ...]:
        """Take in what of an output is more than tokens; return prompt, computed and cached tokens where it tells them."""
        events = self.rows["engine_event"]
        for event in output.events or ():
            kind, at_ns = vllm.EVENT_KINDS.get(event.type), self.to_node_ns(event.timestamp)
            if kind is None:
                continue
            if kind == "queued":
                request.start_ns = min(request.start_ns, at_ns)
            elif kind == "preempted":
                request.preemptions, request.out = request.preemptions + 1, True
            elif request.out:
                kind, request.out = "resumed", False
            events.append((at_ns, output.request_id, kind))
        if tokens and not request.output:
            events.append((engine_ns, output.request_id, "first_token"))
        if reason is not None:
            events.append((engine_ns, output.request_id, "aborted" if reason == "abort" else "finished"))
        told = output.prefill_stats
        if told is None:
            return (None, None, None)
        request.prompt, request.computed = told.num_prompt_tokens, told.num_computed_tokens
        request.cached = told.num_cached_tokens
        if reason is None:
            self.rows["engine_request"].append(request.row(output.request_id, None, None))
        return (told.num_prompt_tokens, told.num_computed_tokens, told.num_cached_tokens)

    def _keep(self, internal_id: str, request: _Request) -> None:
        self._requests[internal_id] = request
        if len(self._requests) > MOST_REQUESTS:
            oldest = list(islice(self._requests, len(self._requests) - MOST_REQUESTS))
            self.forgotten += len(oldest)
            for each in oldest:
                del self._requests[each]


def _trace(headers: Mapping[str, str] | None) -> tuple[bytes | None, int | None]:
    """Return trace id and parent span id of W3C trace headers."""
    for name, value in (headers or {}).items():
        found = _TRACEPARENT.match(value) if name.lower() == "traceparent" else None
        if found:
            return uuid.UUID(found[1]).bytes, int(found[2], 16)
    return None, None


def _disaggregated(request: _Request, transfer: vllm.Transfer | None) -> None:
    if transfer is None:
        return
    request.role = "decode" if transfer.do_remote_prefill else "prefill" if transfer.do_remote_decode else None
    request.remote_id = _text(transfer.remote_request_id)
    request.transfer_id = _text(transfer.transfer_id)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
