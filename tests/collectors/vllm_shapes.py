"""Objects shaped like vLLM 0.33's scheduler output, a scheduler and a worker, for tests where vLLM is not installed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class NewRequestData:
    req_id: str
    prompt_token_ids: list[int] | None
    num_computed_tokens: int
    prompt_embeds: Any = None


@dataclass
class CachedRequestData:
    req_ids: list[str] = field(default_factory=list)
    resumed_req_ids: set[str] = field(default_factory=set)
    num_computed_tokens: list[int] = field(default_factory=list)
    num_output_tokens: list[int] = field(default_factory=list)


@dataclass
class SchedulerOutput:
    scheduled_new_reqs: list[NewRequestData]
    scheduled_cached_reqs: CachedRequestData
    num_scheduled_tokens: dict[str, int]
    total_num_scheduled_tokens: int
    scheduled_spec_decode_tokens: dict[str, list[int]] = field(default_factory=dict)
    finished_req_ids: set[str] = field(default_factory=set)
    preempted_req_ids: set[str] | None = None


@dataclass
class ModelRunnerOutput:
    req_ids: list[str]
    sampled_token_ids: list[list[int]]


def output(
    new: dict[str, tuple[int, int, int]], cached: dict[str, tuple[int, int, int]], **more: Any
) -> SchedulerOutput:
    """A step: new requests by id with (prompt, computed, tokens), the others with (computed, put out, tokens)."""
    tokens = {each: amounts[2] for each, amounts in [*cached.items(), *new.items()]}
    resumed = more.pop("resumed", set())
    return SchedulerOutput(
        [NewRequestData(each, list(range(prompt)), computed) for each, (prompt, computed, _) in new.items()],
        CachedRequestData(
            list(cached), resumed, [a for a, _, _ in cached.values()], [b for _, b, _ in cached.values()]
        ),
        tokens,
        sum(tokens.values()),
        **more,
    )


class Scheduler:
    """Hands out prepared steps."""

    def __init__(self, steps: list[SchedulerOutput]) -> None:
        self.steps = iter(steps)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        return next(self.steps)

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> str:
        return f"{len(model_runner_output.req_ids)} outputs"


class Worker:
    """Runs a step: gives each member one token, drafts accepted."""

    rank = 0

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        drafts = scheduler_output.scheduled_spec_decode_tokens
        ids = list(scheduler_output.num_scheduled_tokens)
        return ModelRunnerOutput(ids, [[1] * (1 + len(drafts.get(each, ()))) for each in ids])

    def sample_tokens(self, grammar_output: object) -> str:
        return "sampled"

    def execute_dummy_batch(self) -> None:
        """Nothing to run."""
