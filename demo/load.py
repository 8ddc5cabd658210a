"""The client load of the demo and the tests: real `openai` and `httpx` clients, streaming and not.

Every request carries a `traceparent`, as an instrumented client's would, and an `x-request-id` where no proxy makes one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass

import httpx
import openai


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as its client saw it; times in Unix ns. `request_id` is empty where the client gave none."""

    request_id: str
    trace_id: str
    client: str
    stream: bool
    status: int
    start_ns: int
    first_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How the demo server is to answer: time to the first token, time between tokens (ms), and how many."""

    first_ms: float = 5.0
    chunk_ms: float = 2.0
    chunks: int = 8

    def headers(self) -> dict[str, str]:
        """Return the headers that ask the demo server for this pace."""
        return {
            "x-demo-first-ms": str(self.first_ms),
            "x-demo-chunk-ms": str(self.chunk_ms),
            "x-demo-chunks": str(self.chunks),
        }


async def run(
    url: str, requests: int, in_flight: int, pace: Pace | None = None, model: str = "warpline-demo", named: bool = True
) -> list[Sent]:
    """Send `requests` chat completions to `url`, `in_flight` at a time, and return what the clients saw.

    One request in four is not streamed, one in two goes through `openai`, the others through `httpx`; the paces differ, so
    that some requests are slow. With `named`, each has an x-request-id of its client's.
    """
    pace = pace or Pace()
    limit = asyncio.Semaphore(in_flight)
    pool = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with (
        httpx.AsyncClient(base_url=url, timeout=60, limits=pool) as plain,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=60, max_retries=0) as sdk,
    ):

        async def one(index: int) -> Sent:
            async with limit:
                headers = _identity(named) | _varied(pace, index).headers()
                send = _by_openai(sdk, headers, model, index) if index % 2 else _by_httpx(plain, headers, model, index)
                return await send

        return list(await asyncio.gather(*(one(index) for index in range(requests))))


def _identity(named: bool) -> dict[str, str]:
    trace = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}
    return {"x-request-id": secrets.token_hex(12), **trace} if named else trace


def _varied(pace: Pace, index: int) -> Pace:
    slow = 1 + (index % 7 == 3) * 4 + (index % 29 == 11) * 20
    return Pace(pace.first_ms * slow, pace.chunk_ms, pace.chunks + index % 5)


def _prompt(index: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Why was request {index} slow? " + "Tell me more. " * (index % 11)}]


async def _by_openai(sdk: openai.AsyncOpenAI, headers: dict[str, str], model: str, index: int) -> Sent:
    stream, start, first = index % 4 != 1, time.time_ns(), 0
    if stream:
        answer = await sdk.chat.completions.create(
            model=model,
            messages=_prompt(index),
            stream=True,
            extra_headers=headers,
        )
        async for _ in answer:
            first = first or time.time_ns()
    else:
        await sdk.chat.completions.create(model=model, messages=_prompt(index), extra_headers=headers)
    return _sent(headers, "openai", stream, 200, start, first)


async def _by_httpx(plain: httpx.AsyncClient, headers: dict[str, str], model: str, index: int) -> Sent:
    stream, start, first = index % 4 != 2, time.time_ns(), 0
    body = {"model": model, "messages": _prompt(index), "stream": stream}
    async with plain.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        async for _ in answer.aiter_raw():
            first = first or time.time_ns()
    return _sent(headers, "httpx", stream, answer.status_code, start, first)


def _sent(headers: dict[str, str], client: str, stream: bool, status: int, start: int, first: int) -> Sent:
    end, trace = time.time_ns(), headers["traceparent"].split("-")[1]
    return Sent(headers.get("x-request-id", ""), trace, client, stream, status, start, first or end, end)
