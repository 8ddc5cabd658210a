"""Child processes that leave nothing behind: each dies with its parent, however the parent ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from warpline.errors import WarplineError


def free_port(preferred: int = 0) -> int:
    """Return `preferred` if it is free on the loopback, else a port that is; raise WarplineError where none is."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise WarplineError("no free port on 127.0.0.1; end what holds them")


class Children:
    """Starts children with one log file each, and stops them in reverse order."""

    def __init__(self, log_dir: Path) -> None:
        """Keep logs in `log_dir`."""
        self._log_dir = log_dir
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []
        log_dir.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start this Python with `arguments`; its output goes to `<name>.log`."""
        with (self._log_dir / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                with_parent([sys.executable, *arguments]),
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops all in order.
            )
        self._started.append((name, child))
        return child

    def pid(self, name: str) -> int:
        """Return the process id of the first child of that name."""
        return next(child.pid for known, child in self._started if known == name)

    def wait_until(self, name: str, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready()`; raise WarplineError, with the end of the child's log, when it ends or takes too long."""
        child = next(c for n, c in self._started if n == name)
        deadline = time.monotonic() + seconds
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                what = f"ended with code {child.returncode}" if child.returncode is not None else "did not become ready"
                log = (self._log_dir / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                raise WarplineError(f"{name} {what}; its log ends:\n{log[-2000:]}")
            time.sleep(0.1)

    def stop(self, seconds: float = 10.0) -> None:
        """Ask each child to end, last started first, and kill what does not within `seconds`."""
        for _, child in reversed(self._started):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(seconds)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        self._started.clear()


def answers(url: str) -> bool:
    """Say whether `url` answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def with_parent(command: Sequence[str]) -> list[str]:
    """Return the command as one that Linux ends (SIGTERM) when its parent ends, however that is.

    `setpriv` is of util-linux, which every Debian has. Python's `preexec_fn` runs between fork and exec, where a lock that
    another thread held is never given back: beside gRPC's threads the start of a process then hangs for ever.
    """
    return ["setpriv", "--pdeathsig", "TERM", *command]
