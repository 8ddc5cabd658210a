"""What goes wrong on a node while it is watched: each ends in correct rows or counted loss, and leaves nothing behind."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from collectors import http_exchange, syscall
from collectors.bpf import syscall as bpf_calls
from collectors.bpf.targets import listening
from tests.collectors.conftest import Caught
from tests.collectors.tls_files import certificate
from tests.collectors.unshared import unshare
from tests.waiting import until

pytestmark = pytest.mark.needs_bpf
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TLS_SERVER = """
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[1])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
COLLECTOR = """
import sys, time
from pathlib import Path
from collectors import sched
from collectors.bpf import elf, loader, syscall
from warpline.clock import NodeClock
from warpline.settings import Settings
from warpline.source import Context
settings = Settings(http_ports="1", state_dir=sys.argv[1])
probe = sched.Probe(Context("sched", "n", settings, NodeClock(Path(sys.argv[1])), print))
probed = loader.load("int uprobe_nothing(struct pt_regs *ctx) { return 0; }")
library = next(Path("/lib").glob("*-linux-gnu/libc.so.6"))
probed.attach_uprobes("uprobe_nothing", str(library), list(elf.symbols(library, ["getppid"]).values()))
for loaded in (probe.loaded, probed):
    for name, descriptor in loaded._descriptors.items():
        kind = name.split(":")[0]
        print(kind, int.from_bytes(syscall.object_info(descriptor, 8)[4:], "little"), flush=True)
    for descriptor in loaded._links.values():
        print("link", int.from_bytes(syscall.object_info(descriptor, 8)[4:], "little"), flush=True)
print("all", 0, flush=True)
time.sleep(60)
"""
_FD_BY_ID = {"program": 13, "map": 14, "link": 30}
"""bpf(2)'s commands that open what has an id (include/uapi/linux/bpf.h)."""


@pytest.fixture(scope="module")
def web(bpf: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Caught, http_exchange.Probe]]:
    caught = Caught(tmp_path_factory.mktemp("web"))
    probe = http_exchange.Probe(caught.context)
    yield caught, probe
    probe.close()


@pytest.fixture(scope="module")
def calls(bpf: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Caught, syscall.Probe]]:
    caught = Caught(tmp_path_factory.mktemp("calls"), http_executables="of-the-200", engine_wire_executables="")
    probe = syscall.Probe(caught.context)
    yield caught, probe
    probe.close()


def served(probe: http_exchange.Probe, count: int) -> list[dict[str, Any]]:
    """The server's rows, once there are `count`."""
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    while len(rows) < count and time.monotonic() < deadline:
        rows += [row for row in probe.poll().rows.to_pylist() if row["side"] == "server"]
        time.sleep(0.02)
    return rows


def plain_server(port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, str(HERE / "plain_server.py"), str(port)], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline()
    return process


def ask(port: int, count: int, tls: bool = False) -> None:
    context = ssl._create_unverified_context()
    secure = http.client.HTTPSConnection("127.0.0.1", port, context=context) if tls else None
    connection = secure or http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(count):
        connection.request("GET", "/v1/models")
        assert connection.getresponse().read()
    connection.close()


def test_a_server_that_is_killed_and_started_again_is_followed(web: tuple[Caught, http_exchange.Probe]) -> None:
    _, probe = web
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    probe.targets.watch_ports([port])
    pids, found = [], []
    for count in (7, 11):
        server = plain_server(port)
        pids.append(server.pid)
        ask(port, count)
        found += served(probe, count)
        server.send_signal(signal.SIGKILL)
        server.communicate()
    assert [sum(row["pid"] == pid for row in found) for pid in pids] == [7, 11]
    assert {row["ended_by"] for row in found} == {"complete"}
    assert len({row["process_uid"] for row in found}) == 2


def test_a_server_that_is_killed_in_mid_answer_leaves_a_row_that_says_so(
    web: tuple[Caught, http_exchange.Probe],
) -> None:
    caught, probe = web
    server = plain_server(0)
    probe.targets.watch(server.pid)
    ports = [port for _, port, _ in listening([server.pid])]
    with socket.create_connection(("127.0.0.1", ports[0])) as door:
        door.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert door.recv(100)
        server.send_signal(signal.SIGKILL)
        server.communicate()
        while door.recv(65536):
            pass
    (row,) = served(probe, 1)
    assert row["status"] == 200 and row["ended_by"] in ("abort", "close") and row["chunks"] < 40
    until(lambda: server.pid not in probe.targets.watched())
    assert caught.losses() == {}


def own_library() -> Path:
    """The file of the TLS library that this Python uses."""
    mapped = re.search(r"(/\S*libssl\S*)", Path("/proc/self/maps").read_text(encoding="utf-8"))
    if mapped is None:
        pytest.skip("this Python's TLS is no library of its own")
    return Path(mapped[1])


@contextmanager
def tls_server(probe: http_exchange.Probe, folder: Path, library: Path, before: Sequence[str] = ()) -> Iterator[int]:
    """A server of which the probe has found the `library`, which it looks for in `folder`; gives its port."""
    key, chain = certificate(folder)
    command = [*before, sys.executable, "-c", TLS_SERVER, key, chain]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)

    def is_read() -> bool:
        probe.poll()
        inode = Path(f"/proc/{process.pid}/root{library}").stat().st_ino
        return str(inode) in {file[1] for file in probe._tls._files}

    try:
        assert process.stdout
        port = int(process.stdout.readline())
        probe.targets.watch(process.pid)
        until(is_read)
        yield port
    finally:
        process.kill()
        process.communicate()


def test_a_tls_library_that_is_upgraded_in_place_is_read_before_and_after(
    web: tuple[Caught, http_exchange.Probe], tmp_path: Path
) -> None:
    caught, probe = web
    library = tmp_path / own_library().name
    shutil.copy(own_library(), library)
    with tls_server(probe, tmp_path, library) as port:
        ask(port, 5, tls=True)
        before = served(probe, 5)
        shutil.copy(own_library(), tmp_path / "new")
        os.replace(tmp_path / "new", library)
        ask(port, 3, tls=True)
        meanwhile = served(probe, 3)
    with tls_server(probe, tmp_path, library) as port:
        ask(port, 7, tls=True)
        after = served(probe, 7)
        check_least_detail(caught, probe)
    assert [len(each) for each in (before, meanwhile, after)] == [5, 3, 7]
    assert {(row["tls"], row["status"]) for row in before + meanwhile + after} == {("openssl", 200)}


def test_a_tls_library_in_a_file_system_that_only_its_process_has_is_read(
    web: tuple[Caught, http_exchange.Probe], tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    mount = f'mount -t tmpfs none {inside} && cp {own_library()} {inside} && exec "$@"'
    before = [*unshare("--mount"), "sh", "-c", mount, "sh"]
    with tls_server(web[1], tmp_path, inside / own_library().name, before) as port:
        assert list(inside.iterdir()) == []
        ask(port, 11, tls=True)
        rows = served(web[1], 11)
    assert [(row["tls"], row["status"]) for row in rows] == [("openssl", 200)] * 11


def check_least_detail(caught: Caught, probe: http_exchange.Probe) -> None:
    """Where single-stepping cannot be paid for, the least detail lets go of TLS and says so; ordinary detail has it."""
    probe._tls._can_step, probe._tls._stepped = False, True  # As on a virtual machine, wherever this runs.
    caught.emitted.clear()
    try:
        caught.context.detail = lambda: 1
        for _ in range(2):
            probe.poll()
        assert probe._tls._links == []
        assert caught.losses() == {"tls left out: its probes cost too much for detail 1": 1}
    finally:
        caught.context.detail = lambda: 2

    def is_back() -> bool:
        probe.poll()
        return bool(probe._tls._links)

    until(is_back)


def summed(probe: syscall.Probe, name: str, of: set[int], count: int) -> int:
    """Calls of `name` by the processes `of` so far, once there are `count`."""
    found, deadline = 0, time.monotonic() + 20
    while found < count and time.monotonic() < deadline:
        rows = [row for _ in range(2) for batch in probe.sums() for row in batch.rows.to_pylist()]
        mine = [row for row in rows if int(row["process_uid"].rpartition(":")[2]) in of]
        found += sum(row["calls"] for row in mine if row["name"] == name)
    return found


def test_200_processes_that_start_at_once_are_all_watched(calls: tuple[Caught, syscall.Probe]) -> None:
    caught, probe = calls
    command = ["sh", "-c", "read _; cd /; read _", "of-the-200"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(200)]
    pids = {each.pid for each in processes}
    try:

        def all_watched() -> bool:
            probe.targets.refresh()
            return pids <= set(probe.targets.watched())

        until(all_watched)
        for each in processes:
            assert each.stdin
            each.stdin.write(b"\n")
            each.stdin.flush()
        assert summed(probe, "chdir", pids, 200) == 200
    finally:
        for each in processes:
            each.communicate()
    until(lambda: not pids & set(probe.targets.watched()))
    assert caught.losses() == {}


def test_a_process_that_is_killed_inside_a_call_is_forgotten(calls: tuple[Caught, syscall.Probe]) -> None:
    caught, probe = calls
    inside = probe.loaded.map("inside", "<u4", "V24")
    process = subprocess.Popen([sys.executable, "-c", "input(); input()"], stdin=subprocess.PIPE)
    probe.targets.watch(process.pid)
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()
    until(lambda: inside.get(process.pid) is not None)
    process.kill()
    process.communicate()
    until(lambda: inside.get(process.pid) is None and process.pid not in probe.targets.watched())
    assert caught.losses() == {}


def test_two_collectors_on_one_node_see_the_same_and_neither_disturbs_the_other(
    calls: tuple[Caught, syscall.Probe], tmp_path: Path
) -> None:
    _, first = calls
    second = syscall.Probe(Caught(tmp_path, engine_wire_executables="").context)
    code = "import os\nfor _ in range(2):\n    input()\n    for _ in range(997): os.umask(0)\ninput()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert process.stdin
    try:
        for probe in (first, second):
            probe.targets.watch(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert [summed(probe, "umask", {process.pid}, 997) for probe in (first, second)] == [997, 997]
        second.close()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert summed(first, "umask", {process.pid}, 997) == 997
    finally:
        second.close()
        process.kill()
        process.communicate()


def test_a_collector_that_is_killed_leaves_nothing_attached_or_loaded(bpf: None, tmp_path: Path) -> None:
    command = [sys.executable, "-c", COLLECTOR, str(tmp_path)]
    collector = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert collector.stdout
    objects: list[tuple[str, int]] = []
    for line in collector.stdout:
        kind, number = line.split()
        if kind == "all":
            break
        objects.append((kind, int(number)))
    assert {kind for kind, _ in objects} == {"program", "map", "link"}
    assert all(exists(*each) for each in objects)
    collector.send_signal(signal.SIGKILL)
    collector.communicate()
    # The kernel frees them behind the process, each in its turn.
    until(lambda: not any(exists(*each) for each in objects))


def exists(kind: str, number: int) -> bool:
    """Whether the Linux kernel still has the program, map or link of this id."""
    try:
        os.close(bpf_calls.bpf(_FD_BY_ID[kind], number.to_bytes(4, "little")))
    except FileNotFoundError:
        return False
    return True
