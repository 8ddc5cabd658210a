"""A continuous-batching server on a real GPU: transformers' own batching, a Llama of random weights, HTTP in front.

`python -m bench.gpu.server PORT small|graphs|large|tiny`: `graphs` is the small model whose steps are CUDA graphs; `tiny`
runs on a CPU too: it tries the script, it measures nothing. Each generation step is told to the injected library and
written into the step ledger. `GET /health` answers once the model has generated.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import sys
import uuid
import zlib
from collections.abc import AsyncIterator
from typing import Any

from bench.gpu import ledger

_SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8},
    "small": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 16},
    "large": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 24, "num_attention_heads": 32},
}
_SIZES["graphs"] = _SIZES["small"]
_CACHES = {"tiny": (64, 256), "small": (256, 8192), "graphs": (256, 8192), "large": (96, 8192)}
"""Blocks of 256 tokens in the cache, tokens in a batch: so that five servers have room on one GPU."""
_VOCABULARY = 32_000


def make_manager(size: str) -> Any:
    """Return transformers' batching manager for a model of random weights, started."""
    import torch  # Only a machine with a GPU has it.
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    config = LlamaConfig(vocab_size=_VOCABULARY, num_key_value_heads=8, max_position_embeddings=8192, **_SIZES[size])
    with torch.device("cuda" if torch.cuda.is_available() or size != "tiny" else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.eval()
    # Without an end-of-sequence token every request gets as many tokens as it asked for.
    generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=512)
    blocks, batch_tokens = _CACHES[size]
    batching = ContinuousBatchingConfig(
        num_blocks=blocks, max_batch_tokens=batch_tokens, use_cuda_graph=size == "graphs", use_async_batching=False
    )
    manager = model.init_continuous_batching(generation_config=generation, continuous_batching_config=batching)
    manager.start()
    return manager


async def tokens(manager: Any, name: str, prompt: list[int], count: int) -> AsyncIterator[int]:
    """Yield the tokens of one request as the model makes them."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    manager.register_result_handler(name, queue.put_nowait)
    manager.add_request(prompt, request_id=name, max_new_tokens=count, streaming=True)
    seen, finished = 0, False
    while not finished:
        output = await queue.get()
        if output.error:
            raise RuntimeError(output.error)
        for token in output.generated_tokens[seen:]:
            yield token
        seen, finished = len(output.generated_tokens), output.is_finished()


def make_app(manager: Any) -> Any:
    """Return the HTTP application."""
    from fastapi import Body, FastAPI
    from fastapi.responses import Response, StreamingResponse

    app, numbers, body_of_json = FastAPI(), itertools.count(), Body()

    @app.get("/health")
    async def health() -> Any:
        async for _ in tokens(manager, f"cmpl-health{next(numbers)}-0-{secrets.token_hex(4)}", [1, 2, 3], 1):
            pass
        return Response(status_code=200)

    @app.post("/v1/completions", response_model=None)
    async def completions(body: dict[str, Any] = body_of_json) -> Any:
        prompt = [zlib.crc32(word.encode()) % _VOCABULARY for word in str(body["prompt"]).split()] or [1]
        name = f"cmpl-{uuid.uuid4().hex}"  # Ids are made as vLLM makes them.
        made = tokens(manager, f"{name}-0-{secrets.token_hex(4)}", prompt, int(body.get("max_tokens", 64)))
        return StreamingResponse(_events(name, made), media_type="text/event-stream")

    return app


async def _events(name: str, made: AsyncIterator[int]) -> AsyncIterator[bytes]:
    async for token in made:
        yield b"data: " + json.dumps({"id": name, "choices": [{"text": f"{token} "}]}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def main() -> None:
    """Serve until stopped."""
    import uvicorn

    ledger.install()
    app = make_app(make_manager(sys.argv[2]))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
