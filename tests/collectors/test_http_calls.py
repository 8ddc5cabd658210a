"""Every system call that moves data on a socket, and chunk sizes as they may be written, in each way that data is seen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.collectors.conftest import WAYS, Caught, http_probe
from tests.collectors.http_watch import Watch, numbers

pytestmark = pytest.mark.needs_bpf

SIZES = ("1", "a", "F", "1a", "0ff", "ABC", "fFf", "1000", "00001000", "0012c", "7;name=value", "9 ")
PROGRAM = r"""
import os, socket, sys

family, way, sizes = sys.argv[1], sys.argv[2], sys.argv[3].split("|")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

def pair():
    if family == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as door:
        near = socket.create_connection(door.getsockname())
        return near, door.accept()[0]

def give(door, data):
    parts = [data[:5], b"", data[5:]]
    {
        "write": lambda: os.write(door.fileno(), data), "writev": lambda: os.writev(door.fileno(), parts),
        "sendto": lambda: door.send(data), "sendmsg": lambda: door.sendmsg(parts),
    }[way]()

def take(door, length):
    while length:
        if way == "write":
            got = len(os.read(door.fileno(), length))
        elif way == "writev":
            got = os.readv(door.fileno(), [bytearray(min(length, 7)), bytearray(max(length - 7, 0))])
        elif way == "sendto":
            door.recv(length, socket.MSG_PEEK)
            got = len(door.recv(length))
        else:
            door.recvmsg(length, 0, socket.MSG_PEEK)
            got = door.recvmsg_into([bytearray(min(length, 7)), bytearray(max(length - 7, 0))])[0]
        length -= got

print("ready", flush=True)
sys.stdin.readline()
near, far = pair()
for number in range(1, 12):
    trace = f"traceparent: 00-{number:032x}-{number:016x}-01\r\n"
    ask = f"POST /calls HTTP/1.1\r\nHost: here\r\n{trace}Content-Length: 2\r\n\r\n{{}}"
    give(near, ask.encode())
    take(far, len(ask))
    answer = [HEAD, *(f"{size}\r\n".encode() + b"x" * int(size.split(";")[0], 16) + b"\r\n" for size in sizes), b"0\r\n\r\n"]
    for part in answer:
        give(far, part)
        take(near, len(part))
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module", params=WAYS)
def watch(bpf: None, caught: Caught, request: pytest.FixtureRequest) -> Iterator[Watch]:
    with http_probe(caught, request.param) as probe:
        yield Watch(probe)


@pytest.mark.parametrize("family", ["inet", "unix"])
@pytest.mark.parametrize("way", ["write", "writev", "sendto", "sendmsg"])
def test_11_streamed_answers_are_11_rows_at_each_end_by_every_call(
    watch: Watch, caught: Caught, way: str, family: str
) -> None:
    command = [sys.executable, "-c", PROGRAM, family, way, "|".join(SIZES)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == b"ready\n"
        watch.probe.targets.watch(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"done\n"
        rows = watch.rows(22, side="")
    finally:
        process.communicate(b"\n")
    for side in ("server", "client"):
        mine = [row for row in rows if row["side"] == side]
        assert numbers(mine) == list(range(1, 12))
        found = {(row["path"], row["status"], row["ended_by"], row["chunks"], row["parse"]) for row in mine}
        assert found == {("/calls", 200, "complete", len(SIZES), "full")}
        lines = sum(len(size) + 2 for size in SIZES)
        bodies = sum(int(size.split(";")[0], 16) + 2 for size in SIZES)
        head = len("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert {row["response_bytes"] for row in mine} == {head + lines + bodies + len("0\r\n\r\n")}
    assert caught.losses() == {}
