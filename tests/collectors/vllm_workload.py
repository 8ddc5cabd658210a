"""vLLM's own scheduler at work on a CPU, with the plugin registered as vLLM registers it. Run by vLLM's Python.

`python vllm_workload.py DIRECTORY plain|async`: serves 37 requests with a KV cache so small that some are preempted, shared
prefixes among them, and drops one; the model is replaced by its answer. Writes what SchedulerOutput said to
DIRECTORY/truth.json.
"""

# ruff: noqa: E402  # vLLM registers its plugins before it loads what they wrap.

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")

import torch
import warpline_vllm

warpline_vllm.register()

from vllm.config import (
    CacheConfig,
    DeviceConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

_MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 4, "vocab_size": 32000,
    "max_position_embeddings": 16384, "torch_dtype": "float16",
}  # fmt: skip
_BLOCKS, _BLOCK_TOKENS = 30, 16


def make(directory: Path, overlapped: bool, **more: Any) -> Any:
    """vLLM's scheduler for a model of which only the configuration exists."""
    model = directory / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(_MODEL))
    models = ModelConfig(model=str(model), skip_tokenizer_init=True, dtype="float16", max_model_len=16384)
    batches = SchedulerConfig(
        max_num_seqs=8, max_num_batched_tokens=128, max_model_len=16384, enable_chunked_prefill=True,
        is_encoder_decoder=False, async_scheduling=overlapped,
    )  # fmt: skip
    cache = CacheConfig(block_size=_BLOCK_TOKENS, enable_prefix_caching=True)
    cache.num_gpu_blocks = _BLOCKS
    config = VllmConfig(
        model_config=models, scheduler_config=batches, cache_config=cache, parallel_config=ParallelConfig(),
        device_config=DeviceConfig("cpu"), **more,
    )  # fmt: skip
    spec = FullAttentionSpec(block_size=_BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32)
    kv = KVCacheConfig(num_blocks=_BLOCKS, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    kind = AsyncScheduler if overlapped else Scheduler
    return kind(
        vllm_config=config, kv_cache_config=kv, structured_output_manager=StructuredOutputManager(config),
        block_size=_BLOCK_TOKENS, log_stats=True,
    )  # fmt: skip


def requests() -> list[Request]:
    """37 requests; every third begins with the same 64 tokens."""
    init_none_hash(sha256)
    hasher = get_request_block_hasher(_BLOCK_TOKENS, sha256)
    made = []
    for n in range(37):
        prompt = list(range(100, 164)) if n % 3 == 0 else []
        prompt += [1000 + 7 * n + i for i in range(20 + 11 * (n % 7))]
        parameters = SamplingParams(max_tokens=30 + n, ignore_eos=True)
        made.append(Request(f"cmpl-{n}-0000", prompt, parameters, None, arrival_time=0.0, block_hasher=hasher))
    return made


def computed(output: Any) -> dict[str, int]:
    """What SchedulerOutput says of tokens computed before."""
    cached = output.scheduled_cached_reqs
    found = {each.req_id: each.num_computed_tokens for each in output.scheduled_new_reqs}
    return found | dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))


def main() -> None:
    directory, overlapped = Path(sys.argv[1]), sys.argv[2] == "async"
    scheduler, by_id, truth, queue = make(directory, overlapped), {}, [], []
    for request in requests():
        by_id[request.request_id] = request
        scheduler.add_request(request)
    while scheduler.has_requests() or queue:
        output = scheduler.schedule()
        before = computed(output)
        ids = list(output.num_scheduled_tokens)
        sampled = [before[each] + output.num_scheduled_tokens[each] >= by_id[each].num_tokens for each in ids]
        if ids:
            members = {each: [output.num_scheduled_tokens[each], before[each]] for each in ids}
            truth.append({"members": members, "preempted": sorted(output.preempted_req_ids or ())})
        queue.append(
            (
                output,
                ModelRunnerOutput(ids, {each: n for n, each in enumerate(ids)}, [[5] if s else [] for s in sampled]),
            )
        )
        while queue and (len(queue) > overlapped or not ids):
            scheduler.update_from_output(*queue.pop(0))
        if len(truth) == 7:
            scheduler.finish_requests(ids[-1:], RequestStatus.FINISHED_ABORTED)
    told = {
        each: [len(r.prompt_token_ids), r.num_output_tokens, r.num_preemptions, str(r.get_finished_reason())]
        for each, r in by_id.items()
    }
    (directory / "truth.json").write_text(json.dumps({"steps": truth, "requests": told}))


if __name__ == "__main__":
    main()
