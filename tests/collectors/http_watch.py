"""What tests of HTTP exchanges share: requests with numbers, and a probe's rows."""

from __future__ import annotations

import socket
import time
from typing import Any

from collectors.http_exchange import Probe

Row = dict[str, Any]


class Watch:
    """A probe, and the rows that it gave since the last look."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    def rows(self, count: int, side: str = "server", settle_s: float = 0.1) -> list[Row]:
        """Poll until there are `count` rows of `side` ("" for both), and a little longer for ones too many."""
        found: list[Row] = []
        end = time.monotonic() + 20
        while time.monotonic() < end:
            found += self.probe.poll().rows.to_pylist()
            if len([row for row in found if side in ("", row["side"])]) >= count:
                end = min(end, time.monotonic() + settle_s)
            time.sleep(0.02)
        return sorted((row for row in found if side in ("", row["side"])), key=lambda row: row["start_ns"])


def connect(port: int) -> socket.socket:
    door = socket.create_connection(("127.0.0.1", port))
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return door


def request(path: str, number: int, method: str = "GET", extra: str = "", body: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: here\r\ntraceparent: 00-{number:032x}-{number:016x}-01\r\n{extra}"
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{head}{length}x-request-id: r{number}\r\n\r\n{body}".encode()


def read_until(door: socket.socket, ending: bytes, answers: int = 0) -> bytes:
    """What comes until its last bytes are `ending`, and so many `answers` have begun in it."""
    text = b""
    while text.count(b"HTTP/1.1 ") < answers or not text.endswith(ending):
        part = door.recv(65536)
        assert part, text
        text += part
    return text


def numbers(rows: list[Row]) -> list[int]:
    assert all(row["trace_id"] for row in rows), next(row for row in rows if not row["trace_id"])
    return [int(row["trace_id"]) for row in rows]
