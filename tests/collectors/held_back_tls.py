"""A program that does the I/O of OpenSSL itself (memory BIOs), both ends of every connection, and holds back what it read.

Each round it reads all sockets first, then hands the records to their sessions in the opposite order, then writes what
these made, the first session's last: no order of system calls tells which socket is whose. `python held_back_tls.py KEY
CERTIFICATE CONNECTIONS [LIBSSL LIBCRYPTO]`; each connection carries one request with its number.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import sys
from typing import Any

KEY, CERTIFICATE, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
CRYPTO = ctypes.CDLL(sys.argv[5] if len(sys.argv) > 5 else "libcrypto.so.3", mode=ctypes.RTLD_GLOBAL)
SSL = ctypes.CDLL(sys.argv[4] if len(sys.argv) > 4 else "libssl.so.3")
PEM = 1
REQUEST = "POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\ntraceparent: 00-{0:032x}-{0:016x}-01\r\n\r\n"
ANSWER = "HTTP/1.1 200 OK\r\nContent-Length: {0}\r\n\r\n{1}"


def pointer(library: Any, name: str, *arguments: Any) -> ctypes.c_void_p:
    function = getattr(library, name)
    function.restype = ctypes.c_void_p
    return ctypes.c_void_p(function(*arguments))


def context(side: str) -> ctypes.c_void_p:
    made = pointer(SSL, "SSL_CTX_new", pointer(SSL, f"TLS_{side}_method"))
    if side == "server":
        assert SSL.SSL_CTX_use_certificate_file(made, CERTIFICATE.encode(), PEM) == 1
        assert SSL.SSL_CTX_use_PrivateKey_file(made, KEY.encode(), PEM) == 1
    return made


class End:
    """One end of a connection: a socket, a session, and what waits between the two."""

    def __init__(self, door: socket.socket, made: ctypes.c_void_p, connects: bool) -> None:
        self.door, self.ready, self.text, self.waiting = door, False, b"", b""
        door.setblocking(False)
        self.session = pointer(SSL, "SSL_new", made)
        self.into, self.out = (pointer(CRYPTO, "BIO_new", pointer(CRYPTO, "BIO_s_mem")) for _ in range(2))
        SSL.SSL_set_bio(self.session, self.into, self.out)
        (SSL.SSL_set_connect_state if connects else SSL.SSL_set_accept_state)(self.session)

    def receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.waiting += self.door.recv(65536)

    def hand_over(self) -> None:
        if self.waiting:
            CRYPTO.BIO_write(self.into, self.waiting, len(self.waiting))
            self.waiting = b""
        if not self.ready:
            self.ready = SSL.SSL_do_handshake(self.session) == 1
        if self.ready:
            room = ctypes.create_string_buffer(65536)
            count = SSL.SSL_read(self.session, room, len(room))
            self.text += room.raw[:count] if count > 0 else b""

    def say(self, text: str) -> None:
        assert SSL.SSL_write(self.session, text.encode(), len(text)) == len(text)

    def send(self) -> None:
        room = ctypes.create_string_buffer(65536)
        count = CRYPTO.BIO_read(self.out, room, len(room))
        if count > 0:
            self.door.sendall(room.raw[:count])


def turn(ends: list[End]) -> None:
    for end in ends:
        end.receive()
    for end in reversed(ends):
        end.hand_over()
    for end in ends:
        end.send()


def main() -> None:
    door = socket.create_server(("127.0.0.1", 0), backlog=COUNT)
    print(door.getsockname()[1], flush=True)
    sys.stdin.readline()  # Until it is watched.
    client, server, clients, servers = context("client"), context("server"), [], []
    for _ in range(COUNT):
        clients.append(End(socket.create_connection(door.getsockname()), client, True))
        servers.append(End(door.accept()[0], server, False))
    while not all(end.ready for end in clients + servers):
        turn(clients + servers)
    for number, end in enumerate(clients, 1):
        end.say(REQUEST.format(number))
    while not all(end.text for end in servers):
        turn(clients + servers)
    for end in servers:
        number = int(end.text.split(b"traceparent: 00-")[1][:32], 16)
        body = f'{{"id":"chatcmpl-{number}"}}'
        end.say(ANSWER.format(len(body), body))
    while not all(end.text.endswith(b"}") for end in clients):
        turn(clients + servers)
    sys.stdin.readline()


main()
