"""Engine steps as the engine's own annotations tell them, and which launches each step made.

Formats, as seen in recordings: vLLM `execute_context_<requests>(<tokens>[_<tokens²>])_generation_<requests>(<tokens>)`;
vLLM and SGLang with details `execute_<tokens>_context_<requests>(sq<tokens>sk…)_generation_<requests>(sq<tokens>sk…)`;
SGLang `step[DECODE bs=<requests>]`, `step[EXTEND bs=<requests> toks=<tokens>]`; PyTorch's profiler `ProfilerStep#<number>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

_VLLM = re.compile(
    r"^execute(?:_(?P<total>\d+))?_context_(?P<context>\d+)\((?:sq)?(?P<context_tokens>\d+)[^)]*\)"
    r"_generation_(?P<generation>\d+)\((?:sq)?(?P<generation_tokens>\d+)[^)]*\)"
)
_SGLANG = re.compile(r"^step\[(?P<mode>[A-Z_]+) bs=(?P<requests>\d+)(?: toks=(?P<tokens>\d+))?")
_PROFILER = re.compile(r"^ProfilerStep#(?P<number>\d+)$")


@dataclass(frozen=True, slots=True)
class Totals:
    """What one annotation says of its step. `engine` is False for a profiler's step, which tells of no requests."""

    engine: bool
    requests: int | None = None
    context_tokens: int | None = None
    generation_tokens: int | None = None
    number: int | None = None

    @property
    def scheduled_tokens(self) -> int | None:
        """Tokens scheduled in all."""
        if self.context_tokens is None or self.generation_tokens is None:
            return None
        return self.context_tokens + self.generation_tokens


def parse(name: str) -> Totals | None:
    """Return the totals of a step's annotation, or None where `name` is not one."""
    if found := _VLLM.match(name):
        requests = int(found["context"]) + int(found["generation"])
        return Totals(True, requests, int(found["context_tokens"]), int(found["generation_tokens"]))
    if found := _SGLANG.match(name):
        requests, decode = int(found["requests"]), found["mode"] in ("DECODE", "TARGET_VERIFY", "IDLE")
        # A decode step puts one token to each request unless the annotation says otherwise.
        tokens = int(found["tokens"]) if found["tokens"] else (requests if decode else None)
        return Totals(True, requests, 0 if decode else tokens, tokens if decode else 0)
    if found := _PROFILER.match(name):
        return Totals(False, number=int(found["number"]))
    return None


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a range of one thread that no other step of that thread encloses. Times in ns of the recording."""

    start: int
    end: int
    pid: int
    thread: int
    name: str
    totals: Totals
    ordinal: int = 0


def choose(found: Iterable[Step]) -> list[Step]:
    """Return the steps in order of time and numbered: the engine's where it told any, else the profiler's.

    Of annotations inside each other (SGLang's `step[…]` in an `execute_…`) the outermost is the step.
    """
    everything = sorted(found, key=lambda step: (step.start, -step.end))
    engine = [step for step in everything if step.totals.engine]
    reach: dict[tuple[int, int], int] = {}
    kept: list[Step] = []
    for step in engine or everything:
        key = (step.pid, step.thread)
        if step.start >= reach.get(key, step.start):
            reach[key] = step.end
            kept.append(step)
    return [
        Step(s.start, s.end, s.pid, s.thread, s.name, s.totals, number if s.totals.number is None else s.totals.number)
        for number, s in enumerate(kept)
    ]


def ordinals(steps: list[Step], pid: Int64, thread: Int64, start: Int64) -> Int64:
    """Return for each call the ordinal of the step that it was made in, or -1.

    A call belongs to the step open on its own thread. Threads that never run a step (autograd's, a graph's) belong to
    the step open at that moment in their process, where only one of its threads runs steps.
    """
    result = np.full(len(start), -1, np.int64)
    for process in {step.pid for step in steps}:
        of_process = [step for step in steps if step.pid == process]
        threads = {step.thread for step in of_process}
        for each in threads:
            mine = [step for step in of_process if step.thread == each]
            rows = (pid == process) & ((thread == each) if len(threads) > 1 else True)
            result[rows] = _within(mine, start[rows])
    return result


def _within(steps: list[Step], moments: Int64) -> Int64:
    starts = np.array([step.start for step in steps], np.int64)
    ends = np.array([step.end for step in steps], np.int64)
    numbers = np.array([step.ordinal for step in steps], np.int64)
    at = np.searchsorted(starts, moments, side="right") - 1
    inside = (at >= 0) & (moments < ends[at])
    return np.where(inside, numbers[at], -1)
