"""What vLLM's engine and its API server tell each other: requests, their states, and what each engine step put out.

vLLM runs them as two processes that exchange one ZMQ message a step over a local socket (AF_UNIX, or TCP). One BPF program
at the end of every system call (raw tracepoint `sys_exit`) takes what the engine's process sends and receives there, in
pieces of 4 KiB; here ZMTP is put together again and decoded by a table of vLLM's layouts (wire/vllm_messages.py). No flag
and no plugin is needed. From it come each request's ids, trace context and token counts, when it was queued, scheduled,
preempted, finished, and for each step who got how many tokens: what correlator/joins/replay.py makes the step ledger of.

The messages hold prompts and answers as token ids. They are reduced to counts here, in the collector; neither an id nor a
text leaves it. Bytes of a socket leave the kernel only once it has begun like ZMTP.

Engines are found by `engine_wire_executables`, by default the title that vLLM gives them. A layout that is not known is
counted, its numbers of elements are logged, and after 16 messages of it without one that is known the socket is left alone.

Needs vLLM 0.33 (V1 engine), Linux 5.8 on x86-64 with BTF, and root or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE. Costs some µs
of the engine's own time for each message, 0.1 µs for every other system call of the node, and here some µs for each request
in each message (bench/probes.py prints today's). At detail 1, emissions are left out.

Not seen: messages between an engine and an API server in one process; encrypted ZMQ. A message of which a piece was lost is
lost whole, and its number stays free. An engine with several API servers sends each its own message of a step: they are
numbered one after the other. Events and statistics need vLLM's log stats, which are on by default.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from collectors.bpf import cuda_library, loader
from collectors.bpf.probe import Programs, polled
from collectors.bpf.ring import Records
from collectors.bpf.targets import Rules
from collectors.identity import proc
from collectors.wire import vllm_messages as vllm
from collectors.wire.engine_state import Engine
from collectors.wire.zmtp import FROM_ENGINE, TO_ENGINE, Message, Reader
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

log = logging.getLogger(__name__)

TABLES = tuple(schema.table(each) for each in ("engine_request", "engine_event", "engine_emission", "engine_message"))
SCOPE = "node"

KEY = np.dtype([("inode", "<u8"), ("process", "<u4"), ("outgoing", "<u4")])
STREAM = np.dtype([("position", "<u8"), ("state", "<u4"), ("looks", "<u4")])
CHUNK = np.dtype(
    [
        *((name, KEY.fields[name][0]) for name in KEY.names or ()),  # type: ignore[index]
        *((name, "<u8") for name in ("position", "now_ns", "process_start_ns")),
        *((name, "<u4") for name in ("length", "starts_call")),
        ("data", "u1", (4096,)),
    ]
)
LOSSES = (
    "watched processes: map full",
    "engine wire: ring full",
    "engine wire: memory not readable",
    "engine wire: too large a call",
    "engine wire: sockets not followed",
)
"""What counter i of the program counts (the enum in engine_wire.bpf.h); all but the first and last in pieces of 4 KiB."""
TEXTS = ("targets.bpf.h", "socket.bpf.h", "engine_wire.bpf.c")
ATTACH = {"raw_sys_exit": "sys_exit"}
SIZES = {"STREAMS": 4096, "CHUNK_PAGES": 2048}
_IGNORED, _LEAST = 2, 1
_FORGET_S = 10.0
_UNKNOWN_BEFORE_LEAVING = 16
_HELD = 256
_OBSERVED = ("engine_request", "engine_event")
"""Tables whose rows say who saw them."""


def check(settings: Settings) -> str | None:
    """Return why the engine wire cannot be read here, or that nothing is chosen to be watched."""
    if not _rules(settings):
        return "nothing is watched: set engine_wire_executables"
    return loader.why_not()


def run(context: Context) -> Iterator[Batch]:
    """Yield batches of the four tables each 100 ms where there are any."""
    probe = Probe(context)
    yield Batch(TABLES[0], pa.RecordBatch.from_pylist([], TABLES[0].arrow))  # Up, though no engine may run yet.
    yield from polled(probe, probe.poll)


@dataclass
class _Stream:
    """One direction of one socket."""

    engine: Engine
    reader: Reader
    outgoing: bool
    expected: int = 0
    known: int = 0
    unknown: int = 0
    left: bool = False
    steps: bool = False
    """True once a message had outputs: what a coordinator's socket carries besides is no step."""
    held: deque[tuple[vllm.Outputs, Message]] = field(default_factory=lambda: deque(maxlen=_HELD))
    """Messages before that one."""


@dataclass
class _Process:
    """An engine's process, and what every row of it says."""

    engine: Engine
    pid: int
    columns: dict[str, Any]


class Probe(Programs):
    """The program, attached, and what reads it."""

    attaches, keeps = ATTACH, ("streams",)

    def __init__(self, context: Context, defines: dict[str, int] | None = None) -> None:
        """Compile, attach, and watch what the settings ask for."""
        super().__init__(context, TEXTS, {**SIZES, **(defines or {})}, LOSSES, _rules(context.settings))
        self.chunks = self.loaded.ring("chunks", CHUNK)
        self._sockets = self.loaded.map("streams", KEY, STREAM)
        self._streams: dict[tuple[int, int, int], _Stream] = {}
        self._processes: dict[tuple[int, int], _Process] = {}
        self._forgot_s = time.monotonic()
        self.begin()

    def poll(self) -> list[Batch]:
        """Return what the engines said since the last poll, and count what was lost."""
        self.follow()
        while len(chunks := self.chunks.take()):
            self._add(chunks)
        self.count_losses()
        batches = [batch for each in self._processes.values() for batch in self._batches(each)]
        self._forget()
        return batches

    def _add(self, chunks: Records) -> None:
        """Take in pieces of streams."""
        names = ("inode", "process", "outgoing", "position", "length", "now_ns", "process_start_ns", "starts_call")
        columns = [chunks[name].tolist() for name in names]
        for data, inode, pid, outgoing, position, length, now_ns, start_ns, first in zip(
            chunks["data"], *columns, strict=True
        ):
            key = (inode, pid, outgoing)
            stream = self._streams.get(key)
            if stream is None or position == 0:
                engine = self._process(pid, start_ns).engine
                stream = _Stream(engine, Reader(FROM_ENGINE if outgoing else TO_ENGINE), bool(outgoing))
                self._streams[key] = stream
            if position != stream.expected:
                stream.reader.gap()
            stream.expected = position + length
            time_ns = self.context.clock.from_monotonic(now_ns)
            for message in stream.reader.add(data[:length].tobytes(), time_ns, bool(first)):
                self._take_in(stream, message)
            if stream.unknown >= _UNKNOWN_BEFORE_LEAVING and not stream.known and not stream.left:
                stream.left = True
                self._sockets.set(key, (stream.expected, _IGNORED, 0))
                log.warning("process %d: its messages have no layout that is known here; its socket is left alone", pid)

    def _process(self, pid: int, start_ns: int) -> _Process:
        found = self._processes.get((pid, start_ns))
        if found is None:
            anchor_ns = self.context.clock.anchor_ns - (proc.monotonic_offset_ns(pid) or 0)
            columns = {"node": self.context.node, "process_uid": proc.process_uid(self.context.node, start_ns, pid)}
            found = _Process(Engine(lambda seconds: round(seconds * 1e9) + anchor_ns), pid, columns)
            self._processes[pid, start_ns] = found
        return found

    def _take_in(self, stream: _Stream, message: Message) -> None:
        """Decode one message; what is no engine's is passed over, what should be and is not known is counted."""
        frames = message.frames
        if stream.reader.socket_type not in ("", "PUSH" if stream.outgoing else "ROUTER"):
            return
        try:
            if not stream.outgoing:
                if len(frames) >= 2 and frames[0] == vllm.ADD:
                    stream.engine.add_request(vllm.read_request(frames[1]), message.time_ns)
                    stream.known += 1
                elif len(frames) >= 2 and frames[0] == vllm.ABORT:
                    stream.engine.add_aborts(vllm.read_aborts(frames[1]), message.time_ns)
            elif frames[0] != vllm.DEAD:
                said = vllm.read_outputs(frames[0])
                stream.known += 1
                self._outputs(stream, said, message)
        except vllm.UnknownLayoutError as error:
            stream.unknown += 1
            if stream.unknown == 1:
                log.warning("a message on the engine wire has a layout that is not known here: %s", error)
            self.context.lost("engine wire: unknown layout", 1, message.time_ns, message.time_ns)

    def _outputs(self, stream: _Stream, said: vllm.Outputs, message: Message) -> None:
        if said.scheduler_stats is None and not said.outputs:
            return  # The answer to a call, or a coordinator's wave: no step.
        stream.held.append((said, message))
        stream.steps = stream.steps or bool(said.outputs)
        while stream.steps and stream.held:
            each, of = stream.held.popleft()
            stream.engine.add_outputs(each, of.time_ns, len(of.frames[0]), of.after_gap)

    def _batches(self, process: _Process) -> Iterator[Batch]:
        engine = process.engine
        self.context.lost("engine wire: too many open requests", engine.forgotten)
        engine.forgotten = 0
        if engine.rows and "simulated" not in process.columns:  # By now it has loaded CUDA.
            process.columns["simulated"] = cuda_library.simulated(process.pid)
        for name, columns in engine.take().items():
            if name == "engine_emission" and self.context.detail() <= _LEAST:
                continue
            more = {"observed_by": "engine_wire"} if name in _OBSERVED else {}
            table = schema.table(name)
            yield Batch(table, table.batch({**columns, **process.columns, "engine_index": engine.index, **more}))

    def _forget(self) -> None:
        """Let go of processes that have ended, and of their sockets."""
        if time.monotonic() < self._forgot_s + _FORGET_S:
            return
        self._forgot_s = time.monotonic()
        gone = {pid for pid, _ in self._processes if not (proc.PROC / str(pid)).exists()}
        self._processes = {key: each for key, each in self._processes.items() if key[0] not in gone}
        self._streams = {key: each for key, each in self._streams.items() if key[1] not in gone}


def _rules(settings: Settings) -> Rules:
    return Rules.from_texts("", settings.engine_wire_executables, "")
