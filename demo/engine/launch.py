"""Start the model server's double as a chain of real processes, watched or not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from collectors.inject.build import build as build_library
from demo.cuda_double import driver
from demo.cuda_double.build import build as build_double
from warpline.children import free_port, with_parent
from warpline.errors import WarplineError

_UP_WITHIN_S = 60
_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Handle:
    """A server that runs."""

    port: int
    process: subprocess.Popen[bytes]
    sockets: tempfile.TemporaryDirectory[str]
    engine_pid: int
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    def stop(self) -> None:
        """End it, its engine too."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.sockets.cleanup()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()


def start(
    directory: Path,
    port: int = 0,
    environment: Mapping[str, str] | None = None,
    watched: bool = True,
    host: str = "127.0.0.1",
) -> Handle:
    """Start API server and engine, and return when they serve. `host` is the loopback address that it has to itself.

    Logs and, unless `environment` names another WARPLINE_RING_DIR, rings go to `directory`. With `watched`, the library that
    CUDA loads is in the engine, recording every step. Raises WarplineError where they do not come up.
    """
    port = port or free_port()
    directory.mkdir(parents=True, exist_ok=True)
    # A Unix socket's path has 107 bytes: `directory` may be longer.
    sockets = tempfile.TemporaryDirectory(prefix="wl-")
    log = directory / "server.log"
    command = [sys.executable, "-m", "demo.engine.serve", str(port), sockets.name, host]
    with log.open("wb") as file:
        process = subprocess.Popen(
            with_parent(command),
            env=_environment(directory, environment or {}, watched),
            stdout=file,
            stderr=file,
            cwd=_ROOT,
        )
    handle = Handle(port, process, sockets, 0, host)
    deadline = time.monotonic() + _UP_WITHIN_S
    while not _answers(handle.url + "/health"):
        if process.poll() is not None or time.monotonic() > deadline:
            handle.stop()
            raise WarplineError(f"demo engine: did not come up: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
    handle.engine_pid = _child(process.pid)
    return handle


def _environment(directory: Path, more: Mapping[str, str], watched: bool) -> dict[str, str]:
    rings = Path(more.get("WARPLINE_RING_DIR", directory / "rings"))
    double = driver.environment(build_double(), build_library() if watched else None, rings)
    return {**os.environ, "WARPLINE_GPU_EAGER_STEPS": "1/1", **double, **more}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (OSError, urllib.error.HTTPError):
        return False


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(children[0]) if children else 0
