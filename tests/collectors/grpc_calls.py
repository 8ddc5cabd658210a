"""A gRPC server and its client, by gRPC's C library, each sync or by asyncio.

Run: grpc_calls.py server|client sync|aio [PORT]. The server prints its port. The client waits for a line, then makes 97
calls, up to 31 at a time: 53 unary, 23 that stream 13 answers, 17 that stream both ways, 3 that fail, and one that it gives
up after the first answer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

IN_FLIGHT, STREAMED = 31, 13
UNARY, STREAM, BOTH, FAIL, CANCEL = range(1, 54), range(54, 77), range(77, 94), range(94, 97), 97


def answer(request: bytes, context: Any) -> bytes:
    return request[::-1]


def answers(request: bytes, context: Any) -> Iterator[bytes]:
    for number in range(STREAMED):
        yield request + b"%d" % number


def echoes(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield from requests


def endless(request: bytes, context: Any) -> Iterator[bytes]:
    while context.is_active():
        yield request
        time.sleep(0.01)


async def answer_async(request: bytes, context: Any) -> bytes:
    return request[::-1]


async def answers_async(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for number in range(STREAMED):
        yield request + b"%d" % number


async def echoes_async(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def endless_async(request: bytes, context: Any) -> AsyncIterator[bytes]:
    while True:
        yield request
        await asyncio.sleep(0.01)


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods of warpline.Test, without generated code."""

    def __init__(self, unary: Any, stream: Any, both: Any, without_end: Any) -> None:
        self.methods = {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Stream": grpc.unary_stream_rpc_method_handler(stream),
            "Both": grpc.stream_stream_rpc_method_handler(both),
            "Endless": grpc.unary_stream_rpc_method_handler(without_end),
        }

    def service(self, details: Any) -> Any:
        return self.methods.get(details.method.rpartition("/")[2])


def serve() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Handler(answer, answers, echoes, endless),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


async def serve_async() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(answer_async, answers_async, echoes_async, endless_async),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def metadata(number: int) -> tuple[tuple[str, str], ...]:
    return (
        ("traceparent", f"00-{number:032x}-{number:016x}-01"),
        ("x-request-id", f"r{number}"),
        ("authorization", "SECRET"),
    )


def ask(port: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        unary = channel.unary_unary("/warpline.Test/Unary")
        stream = channel.unary_stream("/warpline.Test/Stream")
        both = channel.stream_stream("/warpline.Test/Both")
        failing = channel.unary_unary("/warpline.Test/None")

        def call(number: int) -> None:
            if number in UNARY:
                assert unary(b"SECRET", metadata=metadata(number)) == b"TERCES"
            elif number in STREAM:
                assert len(list(stream(b"SECRET", metadata=metadata(number)))) == STREAMED
            elif number in BOTH:
                assert len(list(both(iter([b"SECRET", b"2", b"3"]), metadata=metadata(number)))) == 3
            elif number in FAIL:
                try:
                    failing(b"SECRET", metadata=metadata(number))
                except grpc.RpcError as error:
                    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
            else:
                ongoing = channel.unary_stream("/warpline.Test/Endless")(b"SECRET", metadata=metadata(number))
                next(ongoing)
                ongoing.cancel()

        with futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
            list(pool.map(call, range(1, CANCEL + 1)))


async def ask_async(port: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        room = asyncio.Semaphore(IN_FLIGHT)

        async def requests() -> AsyncIterator[bytes]:
            for each in (b"SECRET", b"2", b"3"):
                yield each

        async def call(number: int) -> None:
            async with room:
                told: dict[str, Any] = {"metadata": metadata(number)}
                if number in UNARY:
                    assert await channel.unary_unary("/warpline.Test/Unary")(b"SECRET", **told) == b"TERCES"
                elif number in STREAM:
                    ongoing = channel.unary_stream("/warpline.Test/Stream")(b"SECRET", **told)
                    assert len([each async for each in ongoing]) == STREAMED
                elif number in BOTH:
                    ongoing = channel.stream_stream("/warpline.Test/Both")(requests(), **told)
                    assert len([each async for each in ongoing]) == 3
                elif number in FAIL:
                    try:
                        await channel.unary_unary("/warpline.Test/None")(b"SECRET", **told)
                    except grpc.RpcError as error:
                        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
                else:
                    ongoing = channel.unary_stream("/warpline.Test/Endless")(b"SECRET", **told)
                    await ongoing.read()
                    ongoing.cancel()

        await asyncio.gather(*(call(number) for number in range(1, CANCEL + 1)))


def main(what: str, how: str, *port: str) -> None:
    if what == "client":
        sys.stdin.readline()
    runs: dict[tuple[str, str], Callable[..., Any]] = {
        ("server", "sync"): serve,
        ("server", "aio"): serve_async,
        ("client", "sync"): ask,
        ("client", "aio"): ask_async,
    }
    made = runs[what, how](*port)
    if made is not None:
        asyncio.run(made)


if __name__ == "__main__":
    main(*sys.argv[1:])
