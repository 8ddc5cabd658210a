"""The gRPC server and load that `bench/http2.py` watches. Run: _grpc_load.py server | client PORT RATE SECONDS FIRST.

The server streams 8 messages a call and computes nothing. The client begins calls at a fixed rate, whatever becomes of them,
with trace ids from FIRST on, over two connections; at the end it prints how many it began and how many were answered whole.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

MESSAGES, CONNECTIONS = 8, 2
METHOD = "/warpline.Bench/Stream"
_TOKEN = b"\n\x03tok" + b"x" * 60


async def answers(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(MESSAGES):
        yield _TOKEN


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(answers)


async def serve() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def load(port: str, rate: float, seconds: float, first: int) -> None:
    apart = [("grpc.use_local_subchannel_pool", 1)]  # Or channels to one server would share a connection.
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", apart) for _ in range(CONNECTIONS)]
    methods = [channel.unary_stream(METHOD) for channel in channels]
    done = 0

    async def call(number: int) -> None:
        nonlocal done
        told = (("traceparent", f"00-{number:032x}-{number:016x}-01"), ("x-request-id", f"r{number}"))
        messages = [each async for each in methods[number % CONNECTIONS](b"p" * 400, metadata=told)]
        done += len(messages) == MESSAGES

    began, calls = time.monotonic(), []
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(began + number / rate - time.monotonic(), 0))
        calls.append(asyncio.create_task(call(first + number)))
    await asyncio.gather(*calls)
    for channel in channels:
        await channel.close()
    print(json.dumps({"sent": len(calls), "done": done, "seconds": time.monotonic() - began}))


def main(what: str, *words: str) -> None:
    if what == "server":
        asyncio.run(serve())
    else:
        port, rate, seconds, first = words
        asyncio.run(load(port, float(rate), float(seconds), int(first)))


if __name__ == "__main__":
    main(*sys.argv[1:])
