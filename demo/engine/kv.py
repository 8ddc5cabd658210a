"""KV cache from a prefill engine to a decode engine: real bytes over a real connection, as many as its tokens have.

The prefill engine answers with `kv_transfer_params`, under vLLM's names; who gets them with a request fetches the cache from
the address in them before the engine sees the request. The bytes are zeros: nobody here could read them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from demo.engine.gpu_page import Fetched

TOKEN_BYTES = 512
"""Of one token in all layers. A model of 8 B has 128 KiB: two cores would move nothing else."""
_PIECE = bytes(1 << 20)
router = APIRouter()


def offered(url: str, request_id: str, tokens: int) -> dict[str, Any]:
    """Return what a prefill engine's answer says of where its KV cache is."""
    return {"do_remote_prefill": True, "remote_url": url, "remote_request_id": request_id, "tokens": tokens}


@router.get("/demo/kv")
async def give(tokens: int) -> StreamingResponse:
    """Give a decode engine the KV cache of so many tokens."""
    return StreamingResponse(_pieces(tokens), media_type="application/octet-stream")


async def _pieces(tokens: int) -> AsyncIterator[bytes]:
    """Yield the KV cache of so many tokens."""
    left = tokens * TOKEN_BYTES
    while left > 0:
        piece = _PIECE[: min(left, len(_PIECE))]
        left -= len(piece)
        yield piece


async def fetch(web: httpx.AsyncClient, params: dict[str, Any], fetched: Fetched) -> None:
    """Fetch what `params` offers and count it; raise httpx.HTTPError where nobody gives it."""
    began = time.monotonic()
    url = f"{params['remote_url']}/demo/kv?tokens={int(params['tokens'])}"
    async with web.stream("GET", url) as answer:
        answer.raise_for_status()
        async for piece in answer.aiter_raw():
            fetched.bytes += len(piece)
    fetched.count += 1
    fetched.seconds += time.monotonic() - began
