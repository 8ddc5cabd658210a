"""A client for the fault matrix on real transports: `python probed_client.py URL http/1.1|http/2 TRAFFIC BEGIN`.

Each call has a number, from BEGIN on, and each of its attempts another: the trace id and the caller's span id of its
traceparent. Prints how many attempts it made; both ends of each are an exchange.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import httpx

COUNT, AT_ONCE = 43, 8
_ASK = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
_PIPELINED = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\nx-demo-chunks: 3\r\nx-demo-chunk-ms: 4\r\n"
    "traceparent: 00-{0:032x}-{1:016x}-01\r\nx-request-id: {2}\r\n\r\n{{}}"
)
made = 0


async def attempt(client: httpx.AsyncClient, url: str, number: int, again: int, name: str, leaves: bool = False) -> int:
    """Make one attempt, under x-request-id `name`; return its status. A client that `leaves` does so at the first token."""
    global made
    made += 1
    headers = {"traceparent": f"00-{number:032x}-{again + 1:016x}-01", "x-request-id": name}
    headers |= {"x-demo-chunks": "9", "x-demo-chunk-ms": "15"}
    async with client.stream("POST", url, headers=headers, json=_ASK) as answer:
        async for _ in answer.aiter_lines():
            if leaves:
                break
    return answer.status_code


async def mixed(client: httpx.AsyncClient, url: str, number: int) -> None:
    """Four of eight at a time bear one x-request-id, which the server gives its response too; each fifth other goes away."""
    shared = bool(number & 4)
    name = f"same-{number // 4}" if shared else f"r-{number}"
    await attempt(client, url, number, 0, name, leaves=number % 5 == 0 and not shared)


async def impatient(client: httpx.AsyncClient, url: str, number: int) -> None:
    """Each third goes away at the first token and asks again under the same x-request-id, at once."""
    name = f"{number:08d}-1a2b-4cde-8f01-23456789abcd"
    if number % 3 == 0:
        await attempt(client, url, number, 0, name, leaves=True)
    await attempt(client, url, number, int(number % 3 == 0), name)


async def refused(_: httpx.AsyncClient, url: str, number: int) -> None:
    """Asks again under the same x-request-id, on a new connection, as long as the server has no room (503)."""
    for again in range(200):
        async with httpx.AsyncClient(verify=False) as client:
            if await attempt(client, url, number, again, f"r-{number}") == 200:
                return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"request {number} was never taken")


async def restarted(client: httpx.AsyncClient, url: str, number: int) -> None:
    """Under the ids that it gave in an earlier life too."""
    await attempt(client, url, number, 0, f"r-{number % 1000}")


async def pipelined(_: httpx.AsyncClient, url: str, number: int) -> None:
    """Two requests in one message, then two more on the same connection; both of a message under one x-request-id."""
    await asyncio.to_thread(_pipeline, url, number)


def _pipeline(url: str, number: int) -> None:
    global made
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port or 80)) as door:
        for first in (0, 2):
            texts = [_PIPELINED.format(number, again + 1, f"p-{number}-{first}") for again in (first, first + 1)]
            made += 2
            door.sendall("".join(texts).encode())
            answer = b""
            while answer.count(b'"id":') < 2 or not answer.endswith(b"}"):
                part = door.recv(65536)
                if not part:
                    raise RuntimeError(f"the server closed, after {answer!r}")
                answer += part


TRAFFIC: dict[str, Callable[[httpx.AsyncClient, str, int], Awaitable[None]]] = {
    each.__name__: each for each in (mixed, impatient, refused, restarted, pipelined)
}


async def main(url: str, protocol: str, traffic: str, begin: int) -> None:
    http2 = protocol == "http/2"
    async with httpx.AsyncClient(verify=False, http1=not http2, http2=http2, timeout=60) as client:
        for first in range(begin, begin + COUNT, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, begin + COUNT))
            await asyncio.gather(*(TRAFFIC[traffic](client, url, number) for number in numbers))
    print(made)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
