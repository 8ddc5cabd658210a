"""Recorded doubles of the peers that the telemetry sources speak to, over real sockets, and a context to run them in."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from demo.loopback import served
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.settings import Settings
from warpline.source import Context, Source


@dataclass
class Seen:
    """What a source has given so far."""

    batches: list[Batch] = field(default_factory=list)

    def rows(self, table: str) -> list[dict[str, Any]]:
        return [row for batch in self.batches if batch.table.name == table for row in batch.rows.to_pylist()]

    def lost(self) -> dict[str, int]:
        counted: dict[str, int] = {}
        for row in self.rows("loss"):
            counted[row["reason"]] = counted.get(row["reason"], 0) + row["lost"]
        return counted


def context(tmp_path: Path, seen: Seen, name: str = "test", **settings: Any) -> Context:
    """A context of a node called node-a whose clock is this machine's."""
    return Context(
        name,
        "node-a",
        replace(Settings(), state_dir=str(tmp_path), **settings),
        NodeClock(tmp_path),
        seen.batches.append,
    )


@contextmanager
def running(source: Source, where: Context, seen: Seen) -> Iterator[None]:
    """Run a source in a thread, as the collector would, until the block ends."""
    problems: list[BaseException] = []

    def loop() -> None:
        try:
            for batch in source.run(where):
                seen.batches.append(batch)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        where.stop.set()
        thread.join(20)
        assert not thread.is_alive(), "the source did not stop"
    if problems:
        raise problems[0]


@contextmanager
def text_server_double(answer: Callable[[str], tuple[int, str]]) -> Iterator[str]:
    """An HTTP server whose answer to a path is `answer(path)`: status and text. Yields its host:port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answer(self.path)
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with served(Handler) as port:
        yield f"127.0.0.1:{port}"


@contextmanager
def grpc_double(
    methods: dict[str, Callable[[bytes, Any], Any]],
    address: str = "127.0.0.1:0",
    certificate: tuple[bytes, bytes] | None = None,
    clients_of: bytes | None = None,
) -> Iterator[str]:
    """A gRPC server of raw messages: full method name → function of request and context.

    A function that is a generator streams; others answer once. `certificate` is (key, chain) in PEM; clients must show one
    of the authority `clients_of`, where it is given. Yields the address.
    """

    class Generic(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            found = methods.get(details.method)
            if found is None:
                return None
            import inspect

            if inspect.isgeneratorfunction(found):
                return grpc.unary_stream_rpc_method_handler(found)
            return grpc.unary_unary_rpc_method_handler(found)

    server = grpc.server(ThreadPoolExecutor(8), handlers=(Generic(),))
    if certificate is None:
        port = server.add_insecure_port(address)
    else:
        credentials = grpc.ssl_server_credentials([certificate], clients_of, clients_of is not None)
        port = server.add_secure_port(address, credentials)
    server.start()
    try:
        yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
