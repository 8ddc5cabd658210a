"""HTTP requests and responses on the sockets of watched processes, HTTP/1, HTTP/2 and gRPC, without touching the processes.

BPF programs take what read, write, readv, writev, recvfrom, sendto, recvmsg and sendmsg moved, where the socket tells of it
(raw tracepoints `sock_send_length` and `sock_recv_length`, Linux 6.3) or else at the end of every system call (`sys_exit`),
and parse HTTP/1 as a stream: heads that are split anywhere, pipelined requests, vectors, keep-alive, TCP and AF_UNIX, both
the server's and the client's side, and connections older than the probe. Under TLS the same parser reads what OpenSSL's
SSL_read and SSL_write (and their _ex forms) give and take, found in whatever libssl.so a watched process maps; where the
program does the I/O (memory BIOs), a session's socket is known by the client's random, which both hold. Streamed chunks are
counted in the Linux kernel: a token costs no event. One row leaves for each exchange when its response ends. Heads are read
up to `http_head_bytes`; of them only the request line, `host`, `traceparent` and `x-request-id` are kept, of a response's
body only its id (chatcmpl-…). No body's bytes leave the kernel but the first 96 of a response, in which the id is looked
for, and which are dropped then.

Of HTTP/2, prior knowledge or by TLS, each stream is a row: frames are walked in the kernel from the client's preface on, cut
where they may be; DATA costs no event and is counted by frames; header blocks come here and are decoded (HPACK), and of them
only the method, the path, `:authority`, the status, `traceparent`, `x-request-id` and `grpc-status` are told. A connection
joined in the middle is found where a call's bytes are whole frames (on AF_UNIX only where a head's first field tells request
from response; other calls are counted); its rows are marked partial and say nothing that came
before. Of its heads only what needs no table is known, until its encoder empties the table.

Watched are the processes that listen on, or connect to, `http_ports`; whose command line has a part of `http_executables`;
whose cgroup path has a part of `http_cgroups`; and all that they fork. The collector itself never is.

At detail 1 one connection in four is followed, the same one at both of its ends where no address is translated; the
requests of the others are counted in `loss` (a left-out connection of HTTP/2 once: its streams are not looked at; one that
is followed stays so, for its header table would be lost). At detail 0 nothing is attached. TLS is
left out at detail 1 where OpenSSL's functions are single-stepped under a probe, and 10,000 calls a second of that would cost
more than `collector_budget_ratio` (the price is measured at start).

Needs Linux 5.8 on x86-64 with BTF, and root or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE. No kprobes, no kernel headers.
Costs (bench/ebpf.py prints today's): about 0.8 µs for each system call that moves data of a watched process, 0.1 µs for one
of another process on a socket, nothing for all others (before Linux 6.3 about 1 µs, and 0.1 µs for every system call of the
node), 1 to 3 % of a core to read 1,000 requests/s of HTTP/1; a gRPC call's heads cost about
40 µs more, most of it HPACK.

Not seen: TLS that is no shared OpenSSL (Envoy's and gRPC's BoringSSL, Go, rustls), TLS sessions whose library was first
mapped on this node less than 0.2 s before, or that began before the probe where the program does the I/O; HTTP/2 that
HTTP/1 is upgraded to; streams that a server pushes; data moved by io_uring, sendfile, splice or a memory-mapped ring;
32-bit processes; a request whose first bytes came before its process was watched (its response then makes a row marked
open_at_start). A 199th step within one system call's data (many pipelined messages or chunks in one large read), a 397th
frame, a ninth pipelined request, and heads beyond `http_head_bytes` are counted or marked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from collectors.bpf import http_scanner, loader, uprobe_price
from collectors.bpf.http2_rows import Streams
from collectors.bpf.http_rows import CONNECTION, EXCHANGE, HTTP2, PIECE, Assembler, still_open
from collectors.bpf.probe import OFF, Programs, now_ns
from collectors.bpf.ring import Records
from collectors.bpf.targets import Rules, chosen
from collectors.bpf.tls import CALLS_PER_S, Libraries, linked_in
from collectors.identity.batches import Cgroups
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

HTTP_EXCHANGE = schema.table("http_exchange")
TABLES = (HTTP_EXCHANGE,)
SCOPE = "node"

TEXTS = (
    "targets.bpf.h",
    "socket.bpf.h",
    "http_state.bpf.h",
    "http_parse.bpf.h",
    "http2.bpf.h",
    "http_tls.bpf.h",
    "http_walk.bpf.h",
    "http_exchange.bpf.c",
)
_TLS_MAPS = {"steps": "tls_steps", "works": "tls_works", "masks": "tls_masks"}
STEPS = ("step", "head", "frames", "join")
"""What the programs do in turn, each the next one's tail call: most of HTTP/1, its heads, HTTP/2, where that begins."""
TWINS = {f"uprobe_tls_{name}": (f"raw_{name}", _TLS_MAPS) for name in STEPS}
"""Programs that read HTTP under TLS: the same code, compiled once, with other maps."""
SOCKETS = "http_sockets.bpf.c", {"raw_sent": "sock_send_length", "raw_received": "sock_recv_length"}
SYSTEM_CALLS = "http_syscalls.bpf.c", {"raw_sys_exit": "sys_exit"}
"""Where data is seen: at the socket (Linux 6.3), or at the end of every system call: a text, and what it attaches to."""
ATTACH = {
    "raw_sock_state": "inet_sock_set_state",
    "raw_retransmit": "tcp_retransmit_skb",
}
BLOCKS_LOST = "http/2 header blocks: ring full"
LOSSES = (
    "watched processes: map full",
    "request heads: ring full",
    "exchanges: ring full",
    "connections: map full",
    "pipelined too deep",
    "memory not readable",
    "too many messages in one system call",
    BLOCKS_LOST,
    "tls connections not read",
    "tls data without a socket",
    "left out: detail 1 follows one connection in four",
    "http/2 streams: map full",
    "http/2 pushed streams are not followed",
    "http/2 joined in the middle: calls that do not say which end asks",
)
"""What counter i of the program counts (the enum in http_state.bpf.h)."""
SIZES = {
    "CONNECTIONS": 16384,
    "STREAMS": 16384,
    "PIECE_PAGES": 2048,
    "BLOCK_PAGES": 2048,
    "EXCHANGE_PAGES": 1024,
    "FRAME_TURNS": 12,
}
"""Rings hold a second of 5,000 requests/s seen at both ends, twice what comes between two polls; they count as collector
memory."""
LEAST = 1
_NOTHING = Batch(HTTP_EXCHANGE, pa.RecordBatch.from_pylist([], HTTP_EXCHANGE.arrow))
_POLL_S = 0.1
ROWS_EVERY = 5
"""Rows are made each fifth poll: most of a small batch's cost is the same for one row and for hundreds (3 ms), in which
whoever shares the core waits; twice a second that is under 1 % of the time, so that it is no part of anyone's p99."""
_FILLING = 0.5
"""How full a ring may be before it is read at once: a burst then has the other half, and 0.1 s."""
_MOST_WAITING = 65536
"""Pieces of heads whose exchanges have not ended: 18 MB at most."""


def check(settings: Settings) -> str | None:
    """Return why HTTP cannot be seen here, or that nothing is chosen to be watched."""
    if not _rules(settings):
        return "nothing is watched: set http_ports, http_executables or http_cgroups"
    return loader.why_not()


def limits(settings: Settings) -> str:
    """Return what is not seen on this node: the TLS that watched processes have in themselves, and what never is."""
    found: dict[tuple[str, str], int] = {}
    for pid, name in chosen(_rules(settings)).items():
        kind = linked_in(Path(f"/proc/{pid}/exe"))
        if kind:
            found[name, kind] = found.get((name, kind), 0) + 1
    inside = [f"TLS inside of {name} ({kind}, {count} running)" for (name, kind), count in sorted(found.items())]
    return "not seen: " + ", ".join(["HTTP/2 that HTTP/1 is upgraded to", *inside])


def run(context: Context) -> Iterator[Batch]:
    """Yield `http_exchange` batches, one each 0.5 s where there are any."""
    probe = Probe(context)
    try:
        for turn in itertools.count():
            stopping = context.wait(_POLL_S)
            if turn % ROWS_EVERY and not stopping and not probe.is_filling():
                probe.follow()
                continue
            yield probe.poll()
            if stopping:
                yield probe.still_open()
                return
    finally:
        probe.close()


class Probe(Programs):
    """The program, attached, and what reads it."""

    keeps = ("connections", "streams")

    def __init__(self, context: Context, defines: dict[str, int] | None = None) -> None:
        """Compile, attach, and watch what the settings ask for."""
        uprobe_price.begin()
        head_bytes = min(max(context.settings.http_head_bytes, 256), 4096)
        macros = {**SIZES, **http_scanner.DEFINES, "HEAD_BYTES": head_bytes, **(defines or {})}
        text, hooks = SOCKETS if all(map(loader.offers, SOCKETS[1].values())) else SYSTEM_CALLS
        self.attaches = hooks | ATTACH
        super().__init__(context, (*TEXTS, text), macros, LOSSES, _rules(context.settings), TWINS)
        self.loaded.map("tls_masks", "<u4", "<u8").set(0, (1 << 64) - 1)
        self.loaded.map("scanners", "<u4", http_scanner.SCANNER).set(0, http_scanner.scanner())
        self.loaded.set_tail_calls("steps", [f"raw_{name}" for name in STEPS])
        self.loaded.set_tail_calls("tls_steps", [f"uprobe_tls_{name}" for name in STEPS])
        self.pieces = self.loaded.ring("pieces", PIECE)
        self.exchanges = self.loaded.ring("exchanges", EXCHANGE)
        self._connections = self.loaded.map("connections", "<u8", CONNECTION)
        self.assembler = Assembler(context.node, context.clock, Cgroups(), head_bytes)
        self.streams = Streams(self.loaded, self.assembler, head_bytes)
        self._least = self.loaded.map("at_least", "<u4", "<u4")
        self._detail = OFF
        price, budget = uprobe_price.measured(), context.settings.collector_budget_ratio
        context.figures.update(price.figures() if price else {})
        self._tls = Libraries(self.loaded, uprobe_price.affordable(price, budget, CALLS_PER_S))
        self.begin()

    def begin(self) -> None:
        """Off attaches nothing; the least follows one connection in four, and counts the requests of all others as lost."""
        before, self._detail = self._detail, self.context.detail()
        if self._detail == before:
            return
        self._least.set(0, int(self._detail == LEAST))
        super().begin()
        if self._detail == OFF:
            self._tls.let_go()

    def follow(self) -> None:
        """Keep up with what every source does, and with the TLS libraries of the processes that are watched."""
        super().follow()
        if self._detail > OFF and self._tls.refresh(self.targets.watched, self._detail == LEAST):
            self.context.lost("tls left out: its probes cost too much for detail 1", 1, lower_bound=True)

    def is_filling(self) -> bool:
        """Say whether a ring should be read before its time."""
        return max(each.fill_ratio() for each in (self.pieces, self.exchanges, self.streams.blocks)) > _FILLING

    def poll(self) -> Batch:
        """Return the exchanges that ended since the last poll, and count what was lost."""
        self.follow()
        # Exchanges first: whatever pieces belong to them were made before.
        ended = self.exchanges.take()
        while len(pieces := self.pieces.take()):
            self.assembler.add(pieces)
        cut_off = [self.streams.take()]
        if BLOCKS_LOST in self.count_losses():
            cut_off.append(self.streams.orphans(now_ns()))
        batch = self._batch(ended, *cut_off)
        dropped = self.assembler.drop_before(_MOST_WAITING) + self.streams.heads.drop_before(_MOST_WAITING)
        self.context.lost("heads of exchanges without an end", dropped)
        self.context.lost("http/2 header blocks not understood", self.streams.heads.not_understood)
        self.streams.heads.not_understood = 0
        return batch

    def still_open(self) -> Batch:
        """Return a row for each exchange that has not ended, as far as it has come."""
        return self._batch(still_open(self._connections.items()[1]), self.streams.still_open())

    def _batch(self, *ended: Records) -> Batch:
        """Return the rows of exchanges, those of HTTP/1 before those of HTTP/2."""
        if not any(map(len, ended)):
            return _NOTHING
        every = np.concatenate([each[list(EXCHANGE.names or ())] for each in ended])
        is_http2 = (every["flags"] & HTTP2) != 0
        parts = []
        for rows, makes in ((every[~is_http2], self.assembler.rows), (every[is_http2], self.streams.rows)):
            if len(rows):
                parts.append(HTTP_EXCHANGE.batch(makes(rows)))
        return Batch(HTTP_EXCHANGE, pa.concat_batches(parts) if len(parts) > 1 else parts[0])


def _rules(settings: Settings) -> Rules:
    return Rules.from_texts(settings.http_ports, settings.http_executables, settings.http_cgroups)
