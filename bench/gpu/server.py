"""A continuous-batching server on a real GPU: transformers' own batching, a Llama of random weights, HTTP in front.

`python -m bench.gpu.server PORT small|large`. The step's ordinal is told to the injected library before each generation
step, so that launches carry it. `GET /health` answers once the model has generated.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import os
import sys
import zlib
from collections.abc import AsyncIterator
from typing import Any

_SIZES = {
    "small": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 16},
    "large": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
_VOCABULARY = 32_000


def make_manager(size: str) -> Any:
    """Return transformers' batching manager for a model of random weights, started."""
    import torch  # Only a machine with a GPU has it.
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

    config = LlamaConfig(vocab_size=_VOCABULARY, num_key_value_heads=8, max_position_embeddings=8192, **_SIZES[size])
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.eval()
    # Without an end-of-sequence token every request gets as many tokens as it asked for.
    generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=512)
    manager = model.init_continuous_batching(generation_config=generation)
    manager.start()
    return manager


def tell_steps() -> None:
    """Tell the library, where CUDA has it loaded, the ordinal of each generation step; say so where it cannot be told."""
    path = os.environ.get("CUDA_INJECTION64_PATH")
    if not path:
        return
    from transformers.generation.continuous_batching import continuous_api

    set_step = ctypes.CDLL(path).warpline_set_step
    set_step.argtypes = [ctypes.c_int64]
    processor = continuous_api.ContinuousBatchProcessor
    if not hasattr(processor, "_generation_step"):
        print(
            "bench.gpu: transformers has no ContinuousBatchProcessor._generation_step; launches have no step",
            flush=True,
        )
        return
    step, ordinals = processor._generation_step, itertools.count()

    def stepping(self: Any, *args: Any, **kwargs: Any) -> Any:
        set_step(next(ordinals))
        return step(self, *args, **kwargs)

    processor._generation_step = stepping


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
        async for _ in tokens(manager, f"health-{next(numbers)}", [1, 2, 3], 1):
            pass
        return Response(status_code=200)

    @app.post("/v1/completions", response_model=None)
    async def completions(body: dict[str, Any] = body_of_json) -> Any:
        prompt = [zlib.crc32(word.encode()) % _VOCABULARY for word in str(body["prompt"]).split()] or [1]
        made = tokens(manager, f"cmpl-{next(numbers)}", prompt, int(body.get("max_tokens", 64)))
        return StreamingResponse(_events(made), media_type="text/event-stream")

    return app


async def _events(made: AsyncIterator[int]) -> AsyncIterator[bytes]:
    async for token in made:
        yield b"data: " + json.dumps({"choices": [{"text": f"{token} "}]}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def main() -> None:
    """Serve until stopped."""
    import uvicorn

    tell_steps()
    app = make_app(make_manager(sys.argv[2]))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
