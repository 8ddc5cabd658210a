"""A toy continuous-batching engine with ground truth: what sources would see of it, and apart from that what was.

What sources see of it is in toy_seen.py, which runs both as a process of its own: estimators read `seen` alone. Its schedule
is vLLM's in outline: running requests first, prompts in chunks, first come first served, the newest preempted when the KV
cache is full, one step ahead when asynchronous; or SGLang's: prompts first, in batches of their own. Its costs are its own:
no estimator knows them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

MS = 1_000_000
BASE = 1_700_000_000_000_000_000
MEMBER = (
    "step",
    "internal_id",
    "scheduled_tokens",
    "computed_before_tokens",
    "sampled",
    "recomputed_tokens",
    "cost_ns",
)
"""Columns of the truth about who was in a step."""


@dataclass(frozen=True)
class Plan:
    """What to simulate."""

    seed: int = 1
    rate: float = 8.0
    seconds: float = 8.0
    most_requests: int = 64
    budget: int = 2048
    kv_tokens: int = 400_000
    asynchronous: bool = True
    prompt: int = 500
    output: int = 130
    cached_ratio: float = 0.3
    resume_hit_ratio: float = 0.5
    drafts: int = 0
    accepted: float = 0.6
    """Chance of each draft to be accepted."""
    aborted_ratio: float = 0.0
    """Share of the requests whose clients go away in the midst of the answer."""
    plugin: bool = False
    lost_ratio: float = 0.0
    mixed: bool = True
    """False for SGLang's schedule: chunks of prompts and decodes are never in one batch."""
    told: str = "wire"
    """How the engine tells its steps: `wire` as vLLM to its API server, `plugin` as from inside vLLM, `spans` as SGLang in
    its trace, `windows` as Triton in its own (toy_triton.py)."""


@dataclass
class Request:
    name: str
    arrive: int
    prompt: int
    output: int
    cached: int
    by_stop: bool
    computed: int = 0
    issued: int = 0
    out: int = 0
    preempted: int = 0
    ended: bool = False
    leaves_at: int = 0
    """Tokens after which its client goes away; 0 for never."""


@dataclass
class Step:
    rows: list[tuple[Request, int, int, bool, int]]
    """(request, tokens, context, sampled, recomputed)"""
    start: int = 0
    end: int = 0
    scheduled: int = 0


@dataclass
class Toy:
    plan: Plan
    random: np.random.Generator
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    events: list[tuple[int, str, str]] = field(default_factory=list)
    emissions: list[tuple[int, int, str, int, str | None, int, int, int]] = field(default_factory=list)
    messages: list[tuple[int, ...]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    resumed: list[tuple[int, int]] = field(default_factory=list)

    def schedule(self, now: int) -> Step | None:
        if self.plan.mixed:
            return self._schedule(now, True, True)
        return self._schedule(now, True, False) or self._schedule(now, False, True)

    def _schedule(self, now: int, prompts: bool, decodes: bool) -> Step | None:
        rows: list[tuple[Request, int, int, bool, int]] = []
        left = self.plan.budget
        for request in list(self.running):
            if request not in self.running:
                continue
            tokens = min(request.prompt + request.issued - request.computed, left)
            decoding = request.prompt + request.issued - request.computed == 1 and request.issued > 0
            if tokens <= 0 or (decoding and request.issued >= request.output and not request.by_stop):
                continue
            if not (decodes if decoding else prompts):
                continue
            if not self._room(request, tokens, now, rows):
                continue
            left -= self._take(request, tokens + (self.plan.drafts if decoding else 0), rows, decoding)
        while prompts and self.waiting and left > 0 and len(self.running) < self.plan.most_requests:
            request = self.waiting[0]
            again = request.preempted > 0
            whole = request.prompt + request.issued
            hit = int(whole * self.plan.resume_hit_ratio) // 16 * 16 if again else request.cached
            tokens = min(whole - hit, left)
            if self._used() + hit + tokens > self.plan.kv_tokens:
                break
            self.waiting.popleft()
            self.running.append(request)
            self.events.append((now, request.name, "resumed" if again else "scheduled"))
            request.computed = hit
            if again:
                self.resumed.append((whole, hit))
            left -= self._take(request, tokens, rows, False)
        if not rows:
            return None
        return Step(rows, scheduled=now)

    def _used(self) -> int:
        return sum(r.computed for r in self.running)

    def _room(self, request: Request, tokens: int, now: int, rows: list[Any]) -> bool:
        while self._used() + tokens > self.plan.kv_tokens and len(self.running) > 1:
            victim = self.running.pop()
            rows[:] = [r for r in rows if r[0] is not victim]
            victim.preempted += 1
            victim.computed = 0
            victim.issued = victim.out
            self.waiting.appendleft(victim)
            self.events.append((now, victim.name, "preempted"))
            if victim is request:
                return False
        return True

    def _take(self, request: Request, tokens: int, rows: list[Any], decoding: bool) -> int:
        context = request.computed
        samples = context + tokens >= request.prompt + request.issued
        again = tokens if request.preempted and not decoding else 0
        rows.append((request, tokens, context, samples, again))
        request.computed += 1 if decoding else tokens
        if samples:
            request.issued += 1
        return tokens

    def update(self, step: Step, now: int) -> None:
        message = len(self.messages)
        for request, tokens, context, samples, _ in step.rows:
            if not samples or request.ended or context + tokens < request.prompt + request.out:
                continue
            new = 1 + (
                int(self.random.binomial(self.plan.drafts, self.plan.accepted))
                if self.plan.drafts and tokens > 1 and request.out
                else 0
            )
            new = min(new, request.output - request.out)
            request.out += new
            request.computed += new - 1
            request.issued += new - 1
            ends = request.out >= request.output
            first = request.out == new
            reason = ("stop" if request.by_stop else "length") if ends else None
            known = (request.prompt, request.prompt - request.cached, request.cached) if first else (-1, -1, -1)
            self.emissions.append((now, message, request.name, new, reason, *known))
            if not ends and request.leaves_at and request.out >= request.leaves_at:
                self.events.append((now + MS // 10, request.name, "aborted"))
                ends = True
            if ends:
                request.ended = True
                if request in self.running:
                    self.running.remove(request)
        queried, hits = sum(q for q, _ in self.resumed), sum(h for _, h in self.resumed)
        drafted = sum(self.plan.drafts > 0 and tokens == 1 + self.plan.drafts for _, tokens, _, _, _ in step.rows)
        told = (len(self.running), len(self.waiting), len(self.resumed), queried, hits)
        self.messages.append((now, message, *told, drafted, drafted * self.plan.drafts))
        self.resumed.clear()


def arrivals(plan: Plan, random: np.random.Generator) -> list[Request]:
    at, found = 0.0, []
    while True:
        at += random.gamma(0.4, 1 / (plan.rate * 0.4))
        if at > plan.seconds:
            return found
        prompt = int(np.clip(random.lognormal(np.log(plan.prompt), 1.0), 8, 6000))
        output = int(np.clip(random.lognormal(np.log(plan.output), 0.9), 2, 900))
        cached = prompt // 2 // 16 * 16 if random.random() < plan.cached_ratio else 0
        name = f"chatcmpl-{len(found):06d}-{int(random.integers(2**32)):08x}"
        leaves = output // 2 if plan.aborted_ratio and random.random() < plan.aborted_ratio else 0
        found.append(
            Request(name, BASE + int(at * 1e9), prompt, output, cached, bool(random.random() < 0.5), leaves_at=leaves)
        )


def simulate(plan: Plan) -> tuple[Toy, list[Request]]:
    toy = Toy(plan, np.random.default_rng(plan.seed))
    pending = deque(arrivals(plan, toy.random))
    everyone = list(pending)
    flight: deque[Step] = deque()
    now, free = BASE, 0
    while pending or toy.waiting or toy.running or flight:
        while pending and pending[0].arrive <= now:
            request = pending.popleft()
            toy.events.append((request.arrive, request.name, "queued"))
            toy.waiting.append(request)
        if len(flight) < (2 if plan.asynchronous else 1):
            step = toy.schedule(now)
            if step is not None:
                step.start = max(free, now + MS // 8)
                step.end = free = step.start + run(step, toy)
                toy.steps.append(step)
                flight.append(step)
                now += 12 * MS // 10
                continue
        if flight:
            step = flight.popleft()
            now = max(now, step.end + MS // 20)
            toy.update(step, now)
        elif pending:
            now = max(now, pending[0].arrive)
        else:
            now += MS // 2
    return toy, everyone


def costs(step: Step) -> dict[str, np.ndarray]:
    """Return what each member of a step costs in each class, in ns: the engine's own model, secret to estimators."""
    tokens = np.array([t for _, t, _, _, _ in step.rows], float)
    context = np.array([c for _, _, c, _, _ in step.rows], float)
    floor = 4.8e6 / len(tokens)
    dense = (
        np.maximum(27e3 * tokens, floor * 0.05)
        if tokens.sum() * 27e3 > 4.8e6
        else 0.5 * floor + 2.4e6 * tokens / tokens.sum()
    )
    attention = np.where(
        tokens == 1, 40 * (context + 1), 2.0 * tokens * (context + tokens / 2) + 4 * (context + tokens)
    )
    sampling = np.array([2000.0 * s for _, _, _, s, _ in step.rows])
    return {"gemm": dense, "attention": attention, "sampling": sampling}


def run(step: Step, toy: Toy) -> int:
    """Return how long the GPU takes for a step, and note its kernels in it."""
    parts = costs(step)
    length = 0
    kernels = []
    for name, ratio in (("gemm", 0.55), ("attention", 1.0), ("gemm", 0.45), ("sampling", 1.0)):
        base = parts[name].sum() * ratio + (150_000 if name == "sampling" else 0)
        took = int(base * toy.random.lognormal(0, 0.03))
        kernels.append((name, length, length + took))
        length += took + 2000
    kernels.append(("memory", length, length + 10_000))
    step.kernels = kernels  # type: ignore[attr-defined]
    return length + 10_000


def truth(toy: Toy) -> dict[str, pa.Table]:
    rows, steps = [], []
    for ordinal, step in enumerate(toy.steps):
        parts = costs(step)
        time = {"gemm": 0, "attention": 0, "sampling": 0, "memory": 0}
        for name, start, end in step.kernels:  # type: ignore[attr-defined]
            time[name] += end - start
        tokens = np.array([t for _, t, _, _, _ in step.rows], float)
        weight = {**parts, "memory": tokens}
        own = sum(time[c] * _ratio(weight[c], tokens) for c in time)
        for (request, count, context, samples, again), cost in zip(step.rows, own.tolist(), strict=True):
            rows.append((ordinal, request.name, count, context, samples, again, cost))
        steps.append((ordinal, step.scheduled, step.start, step.end, len(step.rows)))
    return {
        "member": _table(MEMBER, rows),
        "step": _table(("step", "scheduled_ns", "start_ns", "end_ns", "requests"), steps),
    }


def _ratio(weight: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    chosen = weight if weight.sum() > 0 else tokens
    return np.asarray(chosen / chosen.sum())


def _table(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> pa.Table:
    return pa.table({n: list(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)})
