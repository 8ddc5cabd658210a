"""A server that does as it is told, so that a test decides which bytes fall into which system call. Run: puppet.py.

It prints its port, takes one connection, and then orders, one a line, each answered by a line: `read COUNT SIZE` (COUNT
bytes, at most SIZE a call), `write SIZE HEX` (SIZE bytes a call; 0: all at once), `vector HEX HEX …` (one call), `close`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from types import TracebackType


class Puppet:
    """The process, and the test's end of its one connection."""

    def __init__(self) -> None:
        command = [sys.executable, "-S", __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._answer())

    def connect(self) -> None:
        """Connect, and return once it has accepted."""
        self.door = socket.create_connection(("127.0.0.1", self.port))
        assert self._answer() == "accepted"

    def takes(self, data: bytes, size: int = 1 << 20) -> None:
        """Let it read `data`, at most `size` bytes a call."""
        self.door.sendall(data)
        self._order(f"read {len(data)} {size}")

    def writes(self, data: bytes, size: int = 0) -> None:
        """Let it write `data`, `size` bytes a call, or all at once."""
        self._order(f"write {size} {data.hex()}")

    def writes_vector(self, *parts: bytes) -> None:
        """Let it write `parts` with one call."""
        self._order("vector " + " ".join(part.hex() for part in parts))

    def closes(self) -> None:
        """Let it close the connection."""
        self._order("close")

    def _order(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Puppet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()
        if hasattr(self, "door"):
            self.door.close()


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    door, _ = listener.accept()
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("accepted", flush=True)
    for line in sys.stdin:
        order, *words = line.split()
        if order == "read":
            left, size = int(words[0]), int(words[1])
            while left:
                left -= len(door.recv(min(size, left)))
        elif order == "write":
            data = bytes.fromhex(words[1])
            size = int(words[0]) or len(data)
            for at in range(0, len(data), size):
                door.sendall(data[at : at + size])
        elif order == "vector":
            os.writev(door.fileno(), [bytes.fromhex(word) for word in words])
        else:
            door.close()
        print("done", flush=True)


if __name__ == "__main__":
    main()
