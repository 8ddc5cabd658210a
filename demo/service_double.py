"""What a cluster gives engines that come and go: a name that stands for all of them, and one exporter for the node's GPUs.

Real: the name's resolution, by a hosts file that the collector alone sees, as it would see a headless Service's; the
exporter's HTTP, and the readings, which each engine gives of its own (simulated) GPU.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx

from demo.loopback import served

NAME = "llm-double.llm.svc"
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_SLAVE = 0x20000, 0x1000, 0x4000, 0x80000


class Service:
    """A headless Service of the ready engines: its name, and what stands behind it now."""

    def __init__(self, directory: Path) -> None:
        """Begin with no engine behind the name."""
        self.hosts = directory / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n", encoding="ascii")
        self.engines: list[str] = []

    def add(self, url: str) -> None:
        """Have an engine behind the name from now on."""
        self.engines.append(url)
        with self.hosts.open("a", encoding="ascii") as file:
            file.write(f"{httpx.URL(url).host} {NAME}\n")

    def arguments(self, command: list[str]) -> list[str]:
        """Return what Python is to be given to run Warpline's `command` where the name is known."""
        return ["-m", "demo.service_double", str(self.hosts), *command]


@contextmanager
def exporter(service: Service) -> Iterator[str]:
    """Serve the readings of the GPUs of all engines on one page, and give its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                pages = [httpx.get(f"{url}/dcgm/metrics", timeout=5).text for url in service.engines]
                status, body = 200, "".join(pages).encode()
            except httpx.HTTPError as error:  # An engine ends, or is stopped.
                status, body = 503, str(error).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with served(Handler) as port:
        yield f"http://127.0.0.1:{port}/metrics"


def _named(hosts: str) -> None:
    """Let this process, and nobody else, look names up in `hosts`. Raises OSError where it may not."""
    _checked(_LIBC.unshare(_CLONE_NEWNS))
    _checked(_LIBC.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None))
    _checked(_LIBC.mount(hosts.encode(), b"/etc/hosts", None, _MS_BIND, None))


def _checked(status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    _named(sys.argv[1])
    sys.argv = ["warpline", *sys.argv[2:]]
    runpy.run_module("warpline.cli", run_name="__main__", alter_sys=True)
