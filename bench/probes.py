"""The eBPF sources one by one: what each event costs in the Linux kernel, and what a reader takes of it.

Kernel costs are the kernel's own run-time statistics of the programs (which themselves add two clock reads a run). They hold
what every other process of the machine does meanwhile, so run it on a quiet one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from collectors import cuda_launch, engine_wire, http_exchange, sched, tcp
from collectors import syscall as syscalls
from collectors.bpf import loader, syscall
from collectors.wire import vllm_messages as vllm
from collectors.wire.engine_state import Engine
from collectors.wire.zmtp import FROM_ENGINE, Reader
from demo.cuda_double import driver
from demo.cuda_double.build import build, compiler
from warpline.clock import NodeClock
from warpline.settings import Settings
from warpline.source import Context

ROOT = Path(__file__).resolve().parent.parent
_WAIT = "import sys\nprint('ready', flush=True)\nsys.stdin.readline()\n"
_UMASKS = _WAIT + "import os\nfor _ in range(200_000): os.umask(0)\n"
_SLEEPS = _WAIT + "import time\nfor _ in range(20_000): time.sleep(0)\nfor _ in range(5_000): time.sleep(0.00005)\n"
_LAUNCHES = (
    "from demo.cuda_double.driver import Driver\ndouble = Driver()\n"
    + _WAIT
    + "for _ in range(20_000): double.launch('k', 1)\n"
)
_CONNECTIONS = (
    "import socket\ndoor = socket.create_server(('127.0.0.1', 0))\n" + _WAIT + "for _ in range(5_000):\n"
    "    with socket.create_connection(door.getsockname()) as near, door.accept()[0]: near.send(b'x')\n"
)
_EXCHANGES = (
    "import socket\ndoor = socket.create_server(('127.0.0.1', 0))\n"
    "near = socket.create_connection(door.getsockname())\nfar = door.accept()[0]\n" + _WAIT + "for _ in range(5_000):\n"
    "    near.send(b'GET /v1/models HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n')\n    far.recv(4096)\n"
    "    far.send(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok')\n    near.recv(4096)\n"
)
"""Both ends are the process's own, so that each exchange is two, and four system calls."""
_MESSAGES = (
    "import msgspec, zmq\ncontext = zmq.Context()\nsocket = context.socket(zmq.PUSH)\nsocket.connect(sys.argv[1])\n"
    "output = ['r', [7], *[None] * 17]; output[13] = 0\n"
    "body = msgspec.msgpack.encode([0, [output] * 64, None, 1.5, None, None, None, None, None])\n"
    "for _ in range(5_000): socket.send(body)\n"
    "socket.close()\ncontext.term()\n"
)


def run() -> None:
    """Print the figures of the group `probes`; a sentence instead where BPF cannot run."""
    decoding()
    reason = loader.why_not()
    if reason:
        print(f"probes: not measured: {reason}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure(folder, "http", http_exchange.Probe, _EXCHANGES, 2, limit=5000, counted="exchanges: ring full")
        measure(folder, "tcp", tcp.Probe, _CONNECTIONS, 2, limit=3000)
        measure(folder, "syscall", syscalls.Probe, _UMASKS, 2, limit=1500)
        measure(folder, "syscall_single", syscalls.Probe, _UMASKS, 3, limit=2000)
        measure(folder, "sched", sched.Probe, _SLEEPS, 2, limit=3000)
        wire(folder)
        if compiler():
            measure(folder, "cuda_launch", cuda_launch.Probe, _LAUNCHES, 2, limit=2000, attach=True)


def decoding() -> None:
    """Messages of 64 outputs through ZMTP, decoding and rows, on one core."""
    output = ["chatcmpl-0af7651916cd43dd8448eb211c80319c-89abcdef", [7], *[None] * 17]
    output[13] = 0
    body = msgspec.msgpack.encode([0, [output] * 64, None, 1.5, None, None, None, None, None])
    data = b"\x02" + len(body).to_bytes(8, "big") + body
    engine, reader, count = Engine(lambda seconds: round(seconds * 1e9)), Reader(FROM_ENGINE), 4_001
    began = time.thread_time()
    for number in range(count):
        for message in reader.add(data, number, True):
            engine.add_outputs(vllm.read_outputs(message.frames[0]), number, len(body), message.after_gap)
        if number % 20 == 0:
            engine.take()
    spent = time.thread_time() - began
    print(f"FIGURE probes.engine_wire.decode_messages_per_s {count / spent:.0f} messages/s outputs=64 limit=2000")


def measure(
    folder: Path,
    name: str,
    make: Callable[[Context], Any],
    code: str,
    detail: int,
    limit: int,
    attach: bool = False,
    counted: str = "",
) -> None:
    """Run `code` watched by a probe; print the kernel's ns for each event that its counters (or the one `counted`) tell."""
    context = _context(folder, detail)
    probe = make(context)
    statistics = syscall.enable_statistics()
    try:
        process = _start([sys.executable, "-c", "import sys\n" + code])
        probe.targets.watch(process.pid)
        if attach:
            probe.attach()
        before, events, rows, spent = probe.loaded.run_ns(), _made(probe, counted), 0, 0
        process.stdin.write(b"go\n")
        process.stdin.flush()
        ended = False
        while not ended:
            ended = process.poll() is not None  # What it did last is read once more.
            time.sleep(0.02)
            began = time.thread_time_ns()
            found = probe.poll()
            spent += time.thread_time_ns() - began
            rows += sum(batch.rows.num_rows for batch in (found if isinstance(found, list) else [found]))
        process.communicate()
        events = _made(probe, counted) - events
        cost = (probe.loaded.run_ns() - before) / max(events, 1)
        print(f"FIGURE probes.{name}.kernel_ns_per_event {cost:.0f} ns events={events} limit={limit}")
        if rows > 1000:
            lost = context.lost_total
            print(f"FIGURE probes.{name}.reader_rows_per_s {rows / spent * 1e9:.0f} rows/s rows={rows} lost={lost}")
    finally:
        os.close(statistics)
        probe.close()


def wire(folder: Path) -> None:
    """5,000 messages of 64 outputs on a ZMQ socket: the kernel's ns for each, and what the reader takes of a core."""
    import zmq

    probe = engine_wire.Probe(_context(folder, 2))
    statistics = syscall.enable_statistics()
    zmq_context = zmq.Context()
    door = zmq_context.socket(zmq.PULL)
    address = f"ipc://{folder}/wire"
    door.bind(address)
    try:
        process = _start([sys.executable, "-c", "import sys\n" + _WAIT + _MESSAGES, address])
        probe.targets.watch(process.pid)
        before, rows, spent, got = probe.loaded.run_ns(), 0, 0, 0
        process.stdin.write(b"go\n")
        process.stdin.flush()
        while got < 5_000:
            if not door.poll(20_000):
                break
            door.recv()
            got += 1
            if got % 500 == 0:
                began = time.thread_time_ns()
                rows += sum(b.rows.num_rows for b in probe.poll() if b.table.name == "engine_message")
                spent += time.thread_time_ns() - began
        process.communicate()
        kernel_ns = probe.loaded.run_ns() - before
        rows += sum(b.rows.num_rows for b in probe.poll() if b.table.name == "engine_message")
        cost = kernel_ns / max(got, 1)
        print(f"FIGURE probes.engine_wire.kernel_ns_per_message {cost:.0f} ns messages={got} limit=10000")
        print(f"FIGURE probes.engine_wire.reader_us_per_message {spent / max(rows, 1) / 1e3:.1f} us seen={rows}")
    finally:
        os.close(statistics)
        probe.close()
        zmq_context.destroy(linger=0)


def _context(folder: Path, detail: int) -> Context:
    settings = Settings(engine_wire_executables="", cuda_launch_executables="", state_dir=str(folder))
    context = Context("probes", "bench", settings, NodeClock(folder), lambda batch: None)
    context.detail = lambda: detail
    return context


def _start(command: list[str]) -> Any:
    environment = {**os.environ, **(driver.environment(build()) if compiler() else {})}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    assert process.stdout
    process.stdout.readline()
    return process


def _made(probe: Any, counted: str) -> int:
    """Events of which the probe's programs counted: sums where they are made, else single ones."""
    reasons = [counted] if counted else probe.tally.reasons
    return max(probe.tally.made(reason) for reason in reasons)
