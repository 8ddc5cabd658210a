"""The step ledger of transformers' continuous batching, written by the plugin's own code into the plugin's ring.

transformers is no engine that Warpline watches: here it stands for one, so that a recording on a real GPU holds a request's
whole way. Its batches are wrapped as vLLM's steps are: who was in it, how far each had come, what each got.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from types import SimpleNamespace
from typing import Any

from collectors.vllm_plugin.warpline_vllm import hooks, steps
from collectors.vllm_plugin.warpline_vllm.ring import EXECUTED, FINISHED, SCHEDULED, UPDATED

_LENGTH = 1
"""vLLM's number of why a request ended: it has as many tokens as it asked for."""


class Ledger:
    """What is known of the requests in batches. Its calls come from transformers' one generation thread."""

    def __init__(self) -> None:
        self.recorder = hooks.Recorder()
        self.computed: dict[str, int] = {}
        self.put_out: dict[str, int] = {}
        self.under_way: deque[tuple[int, Any, list[Any]]] = deque()
        self.ordinals = itertools.count()

    def scheduled(self, batch: list[Any]) -> None:
        """Take a batch of transformers' FutureRequestState, as its scheduler made it."""
        ordinal, now = next(self.ordinals), time.monotonic_ns()
        new = [each for each in batch if each.state.request_id not in self.computed]
        old = [each for each in batch if each.state.request_id in self.computed]
        output = SimpleNamespace(
            scheduled_new_reqs=[_new(each.state) for each in new],
            scheduled_cached_reqs=SimpleNamespace(
                req_ids=[each.state.request_id for each in old],
                resumed_req_ids=set(),
                num_computed_tokens=[self.computed[each.state.request_id] for each in old],
                num_output_tokens=[self.put_out[each.state.request_id] for each in old],
            ),
            num_scheduled_tokens={each.state.request_id: each.query_length for each in batch},
            total_num_scheduled_tokens=sum(each.query_length for each in batch),
            scheduled_spec_decode_tokens={},
            preempted_req_ids=None,
            finished_req_ids=set(),
        )
        for each in batch:
            name = each.state.request_id
            self.computed[name] = self.computed.get(name, 0) + each.query_length
            self.put_out[name] = self.put_out.get(name, 0) + int(each.has_new_token)
        self.recorder.write(SCHEDULED, lambda: steps.scheduled(ordinal, now, output))
        self.under_way.append((ordinal, output, [(each.state, each.has_new_token) for each in batch]))

    def run(self, step: Any, *arguments: Any) -> Any:
        """Run the step of the latest batch; its launches are the step's."""
        ordinal, output, _ = self.under_way[-1]
        self.recorder.tell_library(ordinal)
        start = time.monotonic_ns()
        try:
            return step(*arguments)
        finally:
            times = start, time.monotonic_ns()
            self.recorder.write(EXECUTED, lambda: steps.executed(ordinal, times, output, 0, 0))

    def updated(self) -> None:
        """The oldest batch under way has its tokens."""
        ordinal, _, members = self.under_way.popleft()
        now = time.monotonic_ns()
        given = SimpleNamespace(
            req_ids=[state.request_id for state, _ in members], sampled_token_ids=[[0] * int(new) for _, new in members]
        )
        self.recorder.write(UPDATED, lambda: steps.updated(ordinal, now, given))
        ended = [(state.request_id, _LENGTH) for state, _ in members if state.status.name in ("FINISHED", "FAILED")]
        if ended:
            self.recorder.write(FINISHED, lambda: steps.finished(ordinal, now, ended))


def _new(state: Any) -> Any:
    return SimpleNamespace(
        req_id=state.request_id, prompt_token_ids=list(state.initial_tokens), num_computed_tokens=0, prompt_embeds=None
    )


def install() -> None:
    """Wrap transformers' batches; say so where its classes are others than those known here (5.20)."""
    from transformers.generation.continuous_batching import continuous_api

    processor = continuous_api.ContinuousBatchProcessor
    wanted = ("__init__", "_generation_step", "update_batch")
    missing = [name for name in wanted if not hasattr(processor, name)]
    if missing:
        print(
            f"bench.gpu: transformers' ContinuousBatchProcessor has no {missing}; there is no step ledger", flush=True
        )
        return
    begin, step, update = (getattr(processor, name) for name in wanted)
    ledger = Ledger()

    def beginning(self: Any, *arguments: Any, **more: Any) -> None:
        begin(self, *arguments, **more)
        schedule = self.scheduler.schedule_batch

        def scheduling(*given: Any, **named: Any) -> Any:
            found = schedule(*given, **named)
            if found[0]:
                ledger.scheduled(found[0])
            return found

        self.scheduler.schedule_batch = scheduling

    def stepping(self: Any, *arguments: Any) -> Any:
        return ledger.run(step, self, *arguments)

    def updating(self: Any) -> Any:
        found = update(self)
        ledger.updated()
        return found

    processor.__init__, processor._generation_step, processor.update_batch = beginning, stepping, updating
