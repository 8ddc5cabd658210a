"""A server on bare sockets, so that a test decides how bytes fall into system calls: plain_server.py PORT [ADDRESS] | PATH.

The request's path chooses: /chunks/N (N chunks, one write each), /vector (head, two chunks and the end in one writev),
/tricky (a chunk that contains what looks like an end), /split (an answer cut inside of head and chunk sizes), /none (204),
/interim (100, then 200), /close (no length: the connection's end is the answer's), /slow (a chunk each 50 ms for 2 s),
all others a small JSON answer.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(number: int) -> bytes:
    return chunk(b'data: {"id":"chatcmpl-%032x","n":%d}\n\n' % (number, number))


def answer(door: socket.socket, path: str) -> bool:  # noqa: C901 - one branch for each behaviour
    """Answer one request; return whether the connection goes on."""
    if path.startswith("/chunks/"):
        door.sendall(HEAD)
        for number in range(int(path.split("/")[2])):
            door.sendall(event(number))
        door.sendall(END)
    elif path == "/vector":
        os.writev(door.fileno(), [HEAD, event(1), event(2), END])
    elif path == "/tricky":
        for part in (HEAD, chunk(b"data: x\r\n0\r\n\r\n"), chunk(b"data: y\n\n"), END):
            door.sendall(part)
    elif path == "/split":
        whole = HEAD + event(1) + event(2) + END
        for at in range(0, len(whole), 7):
            door.sendall(whole[at : at + 7])
    elif path == "/none":
        door.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    elif path == "/interim":
        door.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        door.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    elif path == "/close":
        door.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        door.sendall(b"until the end")
        return False
    elif path == "/slow":
        door.sendall(HEAD)
        for number in range(40):
            door.sendall(event(number))
            time.sleep(0.05)
        door.sendall(END)
    else:
        door.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"ok":true}')
    return True


def serve(door: socket.socket) -> None:
    text = b""
    going = True
    try:
        while going and (data := door.recv(65536)):
            text += data
            while going and b"\r\n\r\n" in text:
                head, _, rest = text.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                size = int(length[1]) if length else 0
                while len(rest) < size:
                    rest += door.recv(65536)
                text = rest[size:]
                method, path, _ = head.split(b" ", 2)
                if method == b"HEAD":
                    door.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n")
                else:
                    going = answer(door, path.decode())
    except (OSError, ValueError):  # Whoever left, or what is no request.
        pass
    door.close()


def main(where: str, address: str = "127.0.0.1") -> None:
    if where.isdigit():
        listener = socket.create_server((address, int(where)), backlog=512)
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(where)
        listener.listen(512)
    print(listener.getsockname()[1] if where.isdigit() else where, flush=True)
    while True:
        door, _ = listener.accept()
        if where.isdigit():
            door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(door,), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
