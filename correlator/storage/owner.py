"""Whose a store's files are: one process owns them, and a second one is turned away before it touches any."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from warpline.errors import StoreError


class Owner:
    """Who owns the store below `root`, until `release` or the end of the process, however it ends."""

    def __init__(self, root: Path) -> None:
        """Take the store; raise StoreError, with the other's process id, where another process has it."""
        self._file = os.open(root / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(self._file, 20).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise StoreError(
                f"store {root}: process {other} has it open; stop that one first, or give another state_dir"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another have the store; again is as good as once."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __del__(self) -> None:
        """Release what nobody holds any more."""
        with contextlib.suppress(OSError, AttributeError):
            self.release()
