"""An API server as recorded: pages of lists, then for each watch what its script says; over real HTTP."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from demo.loopback import served

PODS = "/api/v1/pods"


def pod(name: str, version: int, phase: str = "Running") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "namespace": "llm", "resourceVersion": str(version)},
        "spec": {"nodeName": "n", "containers": []},
        "status": {"phase": phase},
    }


@dataclass
class Kind:
    """One kind of object: its lists, of which the last one stays, and the script of each watch.

    A script is what the server sends, one JSON object or some bytes a line, or a number: the status that it answers with. At
    an event it waits. An empty one, and none, is a watch in which nothing happens.
    """

    lists: list[list[dict[str, Any]]]
    watches: list[list[Any]] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)


class ApiServerDouble:
    """As much of an API server as a watcher asks for; what it does not have is not found."""

    def __init__(self, lists: list[list[dict[str, Any]]], watches: list[list[Any]]) -> None:
        self.kinds = {PODS: Kind(lists, watches)}
        self.groups: dict[str, list[dict[str, str]]] = {}
        self.stop = threading.Event()

    @property
    def asked(self) -> list[dict[str, str]]:
        """What was asked of pods."""
        return self.kinds[PODS].asked

    def answer(self, handler: Any) -> None:
        told = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(told.query).items()}
        kind = self.kinds.get(told.path)
        if told.path == "/version":
            self._send(handler, 200, {})
        elif told.path in self.groups:
            self._send(handler, 200, {"kind": "APIGroup", "versions": self.groups[told.path]})
        elif kind is None:
            self._send(handler, 404, {"kind": "Status", "code": 404})
        else:
            kind.asked.append(query)
            if query.get("watch"):
                self._watch(handler, kind.watches.pop(0) if kind.watches else [])
            else:
                self._page(handler, kind, int(query.get("continue", 0)))

    def _page(self, handler: Any, kind: Kind, start: int) -> None:
        found = kind.lists[0]
        more = str(start + 2) if start + 2 < len(found) else ""
        metadata = {"resourceVersion": "100", "continue": more}
        self._send(handler, 200, {"kind": "PodList", "metadata": metadata, "items": found[start : start + 2]})
        if not more and len(kind.lists) > 1:
            kind.lists.pop(0)

    def _watch(self, handler: Any, script: list[Any]) -> None:
        if script and isinstance(script[0], int):
            self._send(handler, script[0], {"kind": "Status", "code": script[0]})
            return
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for each in script:
            if isinstance(each, threading.Event):
                each.wait(60)
                continue
            line = each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n"
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
            handler.wfile.flush()
        if not script:
            self.stop.wait(30)
        handler.wfile.write(b"0\r\n\r\n")

    def _send(self, handler: Any, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)


@contextmanager
def api_server(double: ApiServerDouble) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            double.answer(self)

        def log_message(self, *args: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # The watcher has left.
                super().handle()

    with served(Handler) as port:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            double.stop.set()
