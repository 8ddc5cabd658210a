"""vLLM's own scheduler in virtual time, with its own encoder: the wire's bytes, and apart from them what really was.

    $VLLM_PYTHON tests/simulator/vllm_engine.py '{"NAME": {"seed": 1, ...}, ...}' TRACES FOLDER

is run by a Python that has vLLM (requirements-vllm.lock), never by Warpline's. Arrivals, prompt and output lengths come from
a folder TRACES with Azure's and Mooncake's public traces. FOLDER/NAME.msgpack.xz holds `to_engine` and `from_engine` (times
in ns and the bytes that the two processes would exchange), `kernel`, `step`, `total`, `member` and `request`, each as
columns. The scheduler, its cache of prefixes, its preemptions and every byte are vLLM's; the GPU's time (gpu_costs.py), the
model's answers and the host's 1.2 ms a step are simulated. Prompts are made-up token ids: the traces hold none.
"""

# ruff: noqa: E402  # vLLM reads its environment when it is loaded.

from __future__ import annotations

import csv
import json
import lzma
import os
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

_HOME = tempfile.mkdtemp(prefix="vllm-")
os.environ.update(HF_HUB_OFFLINE="1", VLLM_LOGGING_LEVEL="ERROR", VLLM_USE_V2_MODEL_RUNNER="0", VLLM_CACHE_ROOT=_HOME)

import gpu_costs
import msgspec
import numpy as np
import torch
import vllm
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    KVTransferConfig,
    ModelConfig,
    ObservabilityConfig,
    ParallelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.metrics.stats import SchedulerIterationDetails
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.serial_utils import MsgpackEncoder
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.utils import compute_iteration_details

MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 4, "vocab_size": 4000000,
    "max_position_embeddings": 16384, "torch_dtype": "float16",
}  # fmt: skip
BLOCK, MODEL_TOKENS, STOP, OTHER = 16, 16384, 7, 11
HOST_S, LAUNCH_S, SEND_S = 1.2e-3, 0.1e-3, 0.1e-3


@dataclass(frozen=True)
class Plan:
    """What to simulate."""

    seed: int = 1
    trace: str = "azure_conv"
    """azure_conv, azure_code or mooncake."""
    requests: int = 100
    rate: float = 5.0
    """Requests/s: the trace's gaps are stretched to it."""
    prompt_times: float = 1.0
    output_times: float = 1.0
    most_prompt: int = 6000
    most_requests: int = 256
    budget: int = 2048
    blocks: int = 25_000
    asynchronous: bool = True
    prefix_cache: bool = True
    chunked: bool = True
    drafts: int = 0
    accepted: float = 0.6
    """Probability that a draft token is accepted, if those before it were."""
    totals: bool = False
    """True where the engine logs its steps' totals (--enable-logging-iteration-details)."""
    role: str = ""
    """prefill or decode: one half of a disaggregated pair."""


@dataclass(frozen=True)
class Arrival:
    at: float
    prompt: int
    output: int
    blocks: tuple[int, ...]
    """Ids of blocks of 512 tokens, where the trace knows which prompts begin alike."""


@dataclass
class Step:
    output: Any
    number: int
    end: float
    samples: set[str]


@dataclass
class Recording:
    to_engine: list[tuple[int, bytes]] = field(default_factory=list)
    from_engine: list[tuple[int, bytes]] = field(default_factory=list)
    request: list[tuple[Any, ...]] = field(default_factory=list)
    step: list[tuple[int, int, int]] = field(default_factory=list)
    total: list[tuple[int, int]] = field(default_factory=list)
    """Prefill and decode tokens of each step, as vLLM would log them."""
    kernel: list[tuple[int, str, int, int]] = field(default_factory=list)
    member: list[tuple[int, ...]] = field(default_factory=list)
    """Step, request, tokens, context before, 1 where it samples, tokens computed again, draft tokens."""


def arrivals(plan: Plan, traces: Path, random: np.random.Generator) -> list[Arrival]:
    """Return `plan.requests` neighbours of the trace, from a place that the seed chooses, at the asked mean rate."""
    if plan.trace == "mooncake":
        with (traces / "mooncake" / "conversation_trace.jsonl").open() as lines:
            rows = [json.loads(line) for line in lines]
        found = [
            Arrival(r["timestamp"] / 1e3, r["input_length"], r["output_length"], tuple(r["hash_ids"])) for r in rows
        ]
    else:
        with (traces / "azure" / f"AzureLLMInferenceTrace_{plan.trace[6:]}.csv").open() as text:
            rows = list(csv.DictReader(text))
        times = [datetime.fromisoformat(r["TIMESTAMP"][:26]).timestamp() for r in rows]
        found = [
            Arrival(t, int(r["ContextTokens"]), int(r["GeneratedTokens"]), ()) for t, r in zip(times, rows, strict=True)
        ]
    first = int(random.integers(len(found) - plan.requests))
    chosen = found[first : first + plan.requests]
    stretch = (plan.requests / plan.rate) / max(chosen[-1].at - chosen[0].at, 1e-9)
    return [
        Arrival(
            (each.at - chosen[0].at) * stretch,
            int(np.clip(each.prompt * plan.prompt_times, 8, plan.most_prompt)),
            int(np.clip(each.output * plan.output_times, 2, 1500)),
            each.blocks,
        )
        for each in chosen
    ]


def prompt_tokens(each: Arrival, number: int, shared: int) -> list[int]:
    """Make up a prompt: alike in each block of 16, so that it packs well, and shared where the trace or `shared` says so."""
    blocks = range((each.prompt + BLOCK - 1) // BLOCK)
    if each.blocks:
        ids = [1000 + each.blocks[min(b // 32, len(each.blocks) - 1)] * 40 + b % 32 for b in blocks]
    else:
        ids = [1000 + b if b < shared else 100_000 + number * 1200 + b for b in blocks]
    return [i for i in ids for _ in range(BLOCK)][: each.prompt]


def make(plan: Plan) -> tuple[Any, VllmConfig]:
    """Return vLLM's scheduler for a model of which only the configuration exists, and its configuration."""
    model = Path(_HOME) / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(MODEL))
    models = ModelConfig(model=str(model), skip_tokenizer_init=True, dtype="float16", max_model_len=MODEL_TOKENS)
    batches = SchedulerConfig(
        max_num_seqs=plan.most_requests, max_num_batched_tokens=plan.budget if plan.chunked else MODEL_TOKENS,
        max_model_len=MODEL_TOKENS, enable_chunked_prefill=plan.chunked, is_encoder_decoder=False,
        async_scheduling=plan.asynchronous,
    )  # fmt: skip
    cache = CacheConfig(block_size=BLOCK, enable_prefix_caching=plan.prefix_cache)
    cache.num_gpu_blocks = plan.blocks
    drafting = {
        "method": "ngram", "num_speculative_tokens": plan.drafts, "prompt_lookup_max": 3, "prompt_lookup_min": 2,
        "target_model_config": models, "target_parallel_config": ParallelConfig(),
    }  # fmt: skip
    transfer = KVTransferConfig(
        kv_connector="Connector", kv_connector_module_path="vllm_connector", kv_role="kv_both"
    ) if plan.role else None  # fmt: skip
    config = VllmConfig(
        model_config=models, scheduler_config=batches, cache_config=cache, parallel_config=ParallelConfig(),
        device_config=DeviceConfig("cpu"),
        observability_config=ObservabilityConfig(enable_logging_iteration_details=plan.totals),
        speculative_config=SpeculativeConfig(**drafting) if plan.drafts else None, kv_transfer_config=transfer,
    )  # fmt: skip
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    kv = KVCacheConfig(plan.blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    kind = AsyncScheduler if plan.asynchronous else Scheduler
    return kind(
        vllm_config=config, kv_cache_config=kv, structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK, log_stats=True,
    ), config  # fmt: skip


class Engine:
    """One engine core: what vllm/v1/engine/core.py does around its scheduler, with time and the GPU simulated."""

    def __init__(self, plan: Plan, everyone: list[Arrival]) -> None:
        self.plan, self.everyone = plan, everyone
        self.random = np.random.default_rng(plan.seed + 1000)
        self.scheduler, self.config = make(plan)
        self.encode = MsgpackEncoder().encode
        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(BLOCK, sha256)
        self.now = self.free = 0.0
        self.flight: deque[Step] = deque()
        self.requests: dict[str, Any] = {}
        self.number: dict[str, int] = {}
        self.want: list[int] = []
        self.most: dict[str, int] = {}
        self.made = Recording()
        time.monotonic = lambda: self.now  # What the scheduler stamps its events with.

    def run(self) -> Recording:
        waiting = deque(sorted(enumerate(self.everyone), key=lambda e: e[1].at))
        depth = 2 if self.plan.asynchronous else 1
        while waiting or self.scheduler.has_requests() or self.flight:
            while waiting and waiting[0][1].at <= self.now:
                self.add(*waiting.popleft())
            if len(self.flight) < depth and self.scheduler.has_requests() and self.schedule():
                continue
            if self.flight:
                self.update(self.flight.popleft())
            elif waiting:
                self.now = max(self.now, waiting[0][1].at)
            else:
                self.now += 5e-4
        self.made.request = [
            (name, round(self.everyone[n].at * 1e9), self.everyone[n].prompt, self.requests[name].num_output_tokens)
            for name, n in self.number.items()
        ]
        return self.made

    def add(self, number: int, each: Arrival) -> None:
        plan, random = self.plan, self.random
        stops = bool(random.random() < 0.5) and plan.role != "prefill"
        shared = int(random.integers(4, 40)) if random.random() < 0.3 else 0
        tokens = prompt_tokens(each, number, shared)
        external = f"chatcmpl-{number:08d}"
        name = f"{external}-{int(random.integers(2**32)):08x}"
        output = 1 if plan.role == "prefill" else each.output
        params: dict[str, Any] = {"max_tokens": output + (200 if stops else 0), "ignore_eos": True}
        if stops:
            params["stop_token_ids"] = [STOP]
        if plan.role:
            far = {"do_remote_decode": True} if plan.role == "prefill" else {
                "do_remote_prefill": True, "remote_request_id": f"{external}-prefill0"
            }  # fmt: skip
            params["extra_args"] = {"kv_transfer_params": far}
        if plan.role == "prefill":
            name = f"{external}-prefill0"
        trace = {"traceparent": f"00-{number + 1:032x}-{number + 1:016x}-01"}
        sampling = SamplingParams(**params)
        self.now = max(self.now, each.at)
        sent = EngineCoreRequest(
            name, tokens, None, sampling, None, each.at, None, None, None, trace_headers=trace, external_req_id=external
        )
        self.made.to_engine.append((round(each.at * 1e9), bytes(self.encode(sent)[0])))
        request = Request(name, tokens, sampling, None, arrival_time=each.at, block_hasher=self.hasher)
        self.requests[name], self.number[name], self.most[name] = request, number, 0
        self.want.append(output)
        self.scheduler.add_request(request)

    def schedule(self) -> bool:
        output = self.scheduler.schedule()
        if not output.total_num_scheduled_tokens:
            if not self.flight:
                self.scheduler.update_from_output(output, ModelRunnerOutput([], {}, []))
                self.now += 5e-4
            return not self.flight
        cached = output.scheduled_cached_reqs
        before = {each.req_id: each.num_computed_tokens for each in output.scheduled_new_reqs}
        before |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        names = list(output.num_scheduled_tokens)
        tokens = np.array([output.num_scheduled_tokens[n] for n in names], float)
        context = np.array([before[n] for n in names], float)
        drafts = np.array([len(output.scheduled_spec_decode_tokens.get(n, ())) for n in names], float)
        ends = [before[n] + output.num_scheduled_tokens[n] - d >= self.requests[n].num_tokens for n, d in
                zip(names, drafts, strict=True)]  # fmt: skip
        samples = {n for n, e in zip(names, ends, strict=True) if e}
        parts = gpu_costs.members(tokens, context, np.array(ends, float) * (1 + drafts))
        executed = gpu_costs.kernels(parts, self.random)
        start = max(self.free, self.now + LAUNCH_S)
        at, number = round(start * 1e9), len(self.made.step)
        self.free = start + executed[-1][2] / 1e9
        self.made.step.append((round(self.now * 1e9), at, at + executed[-1][2]))
        self.made.kernel += [(number, kind, at + low, at + high) for kind, low, high in executed]
        for name, count, known, draft in zip(names, tokens, context, drafts, strict=True):
            again = int(min(count, max(self.most[name] - known, 0)))
            self.most[name] = max(self.most[name], int(known + count - draft))
            row = (number, self.number[name], int(count), int(known), int(name in samples), again, int(draft))
            self.made.member.append(row)
        self.flight.append(Step(output, number, self.free, samples))
        self.now += HOST_S
        return True

    def update(self, step: Step) -> None:
        self.now = max(self.now, step.end + 5e-5)
        names = list(step.output.num_scheduled_tokens)
        given = [self.answer(step, name) for name in names]
        said = ModelRunnerOutput(names, {n: i for i, n in enumerate(names)}, given)
        outputs = self.scheduler.update_from_output(step.output, said)
        if self.plan.drafts:
            live = [n for n, g in zip(names, given, strict=True) if g and not self.requests[n].is_finished()]
            self.scheduler.update_draft_token_ids(DraftTokenIds(live, [[OTHER] * self.plan.drafts for _ in live]))
        told = compute_iteration_details(step.output)
        self.made.total.append((told.num_ctx_tokens, told.num_generation_tokens))
        for each in outputs.values():
            each.timestamp = self.now
            if self.plan.totals:
                each.scheduler_stats.iteration_details = SchedulerIterationDetails(
                    step.number, told.num_ctx_requests, told.num_ctx_tokens, told.num_generation_requests,
                    told.num_generation_tokens, 0.0,
                )  # fmt: skip
            self.made.from_engine.append((round((self.now + SEND_S) * 1e9), bytes(self.encode(each)[0])))

    def answer(self, step: Step, name: str) -> list[int]:
        """Return the tokens that the model puts out: the last is the stop token where the answer ends by itself."""
        if name not in step.samples:
            return []
        request, count = self.requests[name], 1
        for _ in step.output.scheduled_spec_decode_tokens.get(name, ()):
            if self.random.random() >= self.plan.accepted:
                break
            count += 1
        left = self.want[self.number[name]] - request.num_output_tokens
        if not request.sampling_params.stop_token_ids or count < left:
            return [OTHER] * count
        return [OTHER] * (max(left, 1) - 1) + [STOP]


def main() -> None:
    plans, traces, folder = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    for name, told in plans.items():
        plan = Plan(**told)
        engine = Engine(plan, arrivals(plan, traces, np.random.default_rng(plan.seed)))
        made = engine.run()
        tables = {table: list(zip(*rows, strict=True)) for table, rows in asdict(made).items()}
        body = msgspec.msgpack.encode({"vllm": vllm.__version__, "plan": asdict(plan), **tables})
        (folder / f"{name}.msgpack.xz").write_bytes(lzma.compress(body, preset=9 | lzma.PRESET_EXTREME))
        preempted = sum(each.num_preemptions for each in engine.requests.values())
        mean = len(made.member) / max(len(made.step), 1)
        print(f"{name}: {len(made.step)} steps, {mean:.1f} requests a step, {preempted} preempted", flush=True)


if __name__ == "__main__":
    main()
