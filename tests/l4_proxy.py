"""An L4 proxy for tests: `python tests/l4_proxy.py LISTEN HOST PORT [DELAY_S]` prints its port and pumps bytes both ways."""

from __future__ import annotations

import socket
import sys
import threading
import time


def pump(here: socket.socket, there: socket.socket, delay_s: float) -> None:
    while data := here.recv(65536):
        time.sleep(delay_s)
        there.sendall(data)
    there.shutdown(socket.SHUT_WR)


def main(listen: str, host: str, port: str, delay_s: str = "0") -> None:
    door = socket.create_server((listen, 0))
    print(door.getsockname()[1], flush=True)
    while True:
        here, _ = door.accept()
        there = socket.create_connection((host, int(port)))
        for ends in ((here, there), (there, here)):
            threading.Thread(target=pump, args=(*ends, float(delay_s)), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
