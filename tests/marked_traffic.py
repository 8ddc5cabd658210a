"""A server, clients and an engine whose every message is full of a mark: what the search for content goes through.

Run: marked_traffic.py serve MARK KEY CERTIFICATE | ask MARK TLS_PORT PORT GRPC_PORT | engine MARK FOLDER. Each says a line
when it is ready, the server its ports. `ask` and `engine` make a round for each line that they read, its number, and say
`done`.

The mark stands wherever content does: in bodies, from their first byte on and laid out like a head, in query strings,
`authorization`, cookies and other headers of requests and of answers, in gRPC's metadata, messages and error texts. What is
told by design is `x-request-id`, and the engine's ids of requests: the way's name and the round's number.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec
import zmq
from hypercorn.asyncio import serve
from hypercorn.config import Config

from warpline.children import free_port

RECORDING = Path(__file__).parent / "collectors" / "data" / "vllm-0.33.0-wire.msgpack"
"""Messages of vLLM's own encoder; its prompts and answers are `PROMPT` and `ANSWER` (collectors/vllm_recorder.py)."""
PROMPT, PROMPT_TOKENS, ANSWER, STOP = 424242, 11, 434343, b"secret stop"
WAYS = ("h1", "h1-tls", "h2", "h2-tls", "grpc", "engine")
MARK_LENGTH = len(STOP)


def content(mark: str) -> bytes:
    """A prompt, or an answer: longer than any piece that a probe reads at once."""
    like_a_head = f"POST /{mark} HTTP/1.1\r\nx-request-id: {mark}\r\ntraceparent: {mark}\r\nhost: {mark}\r\n\r\n"
    return f"{mark}\n{like_a_head}".encode() + b'{"id":"%s"}' % mark.encode() + mark.encode() * 2_003


# Servers


def answering(mark: str) -> Callable[..., Any]:
    """An ASGI application that streams content, whatever it is asked."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        secret = [(b"set-cookie", mark.encode()), (b"x-answer", mark.encode()), (b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": secret})
        for _ in range(3):
            await send({"type": "http.response.body", "body": content(mark), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return application


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    """One call that streams content and fails with it."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def service(self, details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.send_initial_metadata((("x-answer", self.mark),))
        yield from (content(self.mark) for _ in range(3))
        context.set_trailing_metadata((("x-end", self.mark),))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.mark)


def server(mark: str, key: str, certificate: str) -> None:
    calls = grpc.server(futures.ThreadPoolExecutor(2))
    calls.add_generic_rpc_handlers((Calls(mark),))
    ports = [free_port(), free_port(), calls.add_insecure_port("127.0.0.1:0")]
    calls.start()
    config = Config()
    config.keyfile, config.certfile, config.errorlog = key, certificate, None
    config.bind, config.insecure_bind = [f"127.0.0.1:{ports[0]}"], [f"127.0.0.1:{ports[1]}"]
    print(*ports, flush=True)
    asyncio.run(serve(answering(mark), config))  # type: ignore[arg-type]


# Clients


def client(mark: str, tls_port: str, port: str, grpc_port: str) -> None:
    ways = {
        "h1": (f"http://127.0.0.1:{port}", {"http2": False}),
        "h1-tls": (f"https://127.0.0.1:{tls_port}", {"http2": False}),
        "h2": (f"http://127.0.0.1:{port}", {"http1": False, "http2": True}),
        "h2-tls": (f"https://127.0.0.1:{tls_port}", {"http2": True}),
    }
    trusting = ssl._create_unverified_context()
    print("ready", flush=True)
    for number in map(int, sys.stdin):
        for way, (url, how) in ways.items():
            with httpx.Client(verify=trusting, **how) as door:  # type: ignore[arg-type]
                given = {"authorization": mark, "cookie": mark, "x-prompt": mark, "x-request-id": f"{way}-{number}"}
                for prompt in (content(mark), mark.encode()):
                    answer = door.post(f"{url}/v1/completions?q={mark}", headers=given, content=prompt)
                    assert mark in answer.text
        call(mark, grpc_port, f"grpc-{number}")
        print("done", flush=True)


def call(mark: str, port: str, request_id: str) -> None:
    metadata = (("x-request-id", request_id), ("authorization", mark), ("x-prompt", mark))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            for each in channel.unary_stream("/warpline.Test/Tell")(content(mark), metadata=metadata):
                assert mark.encode() in each
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and error.details() == mark


# The engine


def engine(mark: str, folder: str) -> None:
    """What vLLM's engine and its API server tell each other, once a round, on sockets of its kinds."""
    recorded = msgspec.msgpack.decode(RECORDING.read_bytes())
    context = zmq.Context()
    requests, outputs, inbox, outbox = (context.socket(kind) for kind in (zmq.ROUTER, zmq.PULL, zmq.DEALER, zmq.PUSH))
    requests.bind(f"ipc://{folder}/requests")
    outputs.bind(f"ipc://{folder}/outputs")
    print("ready", flush=True)
    connected = False
    for number in map(int, sys.stdin):
        if (
            not connected
        ):  # Only now: a probe that is late joins a connection with a message, and misses what came before.
            inbox.setsockopt(zmq.IDENTITY, b"engine")
            inbox.connect(f"ipc://{folder}/requests")
            outbox.connect(f"ipc://{folder}/outputs")
            inbox.send(b"")
            requests.recv_multipart()
            connected = True
        for kind, _, told in recorded:
            body = told.replace(STOP, mark.encode()).replace(b"cmpl-", b"%04d-" % number)
            if kind == "add":
                requests.send_multipart([b"engine", b"\x00", body])
                inbox.recv_multipart()
            else:
                outbox.send(body)
                outputs.recv()
        print("done", flush=True)


if __name__ == "__main__":
    {"serve": server, "ask": client, "engine": engine}[sys.argv[1]](*sys.argv[2:])
