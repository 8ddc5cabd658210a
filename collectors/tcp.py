"""TCP connections of watched processes: who opened them, states, bytes, segments sent again, initial sequence numbers.

Raw tracepoints `inet_sock_set_state` (the opening, each change, the close) and `tcp_retransmit_skb` (at most one row a
second and connection); addresses and counters are read from the socket. A row is the connection so far: the last one holds.
The connection's number is a hash of its addresses, ports, network namespace and initial sequence numbers, so that
`http_exchange` gives it the same number, and the two ends of it on two nodes pair by addresses and sequence numbers without
a clock. Which processes are watched, `http_ports`, `http_executables` and `http_cgroups` say, as for `http_exchange`.

Needs Linux 5.8 on x86-64 with BTF, and root or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE. Costs a few µs for each connection,
nothing for each segment.

Not seen: a connection that was open before the probe, until its state changes next (then marked, its byte counts right);
the process of a connection that a worker accepted from an inherited listener is given as the process that listens;
AF_UNIX (see `http_exchange`); UDP and QUIC.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from collectors.bpf import loader
from collectors.bpf.ends import ENDS, columns, connection_ids
from collectors.bpf.probe import Programs, polled
from collectors.bpf.ring import Records
from collectors.bpf.targets import Rules, listening
from collectors.identity import proc
from collectors.identity.batches import process_uids
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

CONNECTION = schema.table("connection")
TABLES = (CONNECTION,)
SCOPE = "node"

CHANGE = np.dtype(
    [
        *((name, "<u8") for name in ("start_ns", "now_ns", "written", "read", "cgroup", "process_start_ns")),
        *((name, "<u4") for name in ("process", "state", "retransmits", "smoothed_rtt")),
        *((name, ENDS.fields[name][0]) for name in ENDS.names or ()),  # type: ignore[index]
        ("from_start", "<u4"),
    ]
)
DOOR = np.dtype([("network", "<u4"), ("port", "<u2"), ("unused", "<u2")])
OWNER = np.dtype([("cgroup", "<u8"), ("process_start_ns", "<u8"), ("process", "<u4"), ("unused", "<u4")])
_OPENING = ("UNKNOWN", "ESTABLISHED", "SYN_SENT", "SYN_RECV")
_ENDING = ("FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING")
STATES = np.array([*_OPENING, *_ENDING])
"""Names of include/net/tcp_states.h, by number."""
ROLES = np.array([None, "client", "server"], object)
LOSSES = ("watched processes: map full", "changes: ring full", "connections: map full")
TEXTS = ("targets.bpf.h", "socket.bpf.h", "tcp.bpf.c")
ATTACH = {"raw_sock_state": "inet_sock_set_state", "raw_retransmit": "tcp_retransmit_skb"}
SIZES = {"CONNECTIONS": 16384, "CHANGE_PAGES": 256}
_CLOSE = 7


def check(settings: Settings) -> str | None:
    """Return why connections cannot be seen here, or that nothing is chosen to be watched."""
    if not _rules(settings):
        return "nothing is watched: set http_ports, http_executables or http_cgroups"
    return loader.why_not()


def run(context: Context) -> Iterator[Batch]:
    """Yield `connection` batches, one each 100 ms where anything changed."""
    probe = Probe(context)
    yield from polled(probe, lambda: [probe.poll()])


class Probe(Programs):
    """The program, attached, and what reads it."""

    attaches, keeps = ATTACH, ("tracks",)

    def __init__(self, context: Context) -> None:
        """Compile, attach, and watch what the settings ask for."""
        super().__init__(context, TEXTS, SIZES, LOSSES, _rules(context.settings))
        self.changes = self.loaded.ring("changes", CHANGE)
        self._doors = self.loaded.map("doors", DOOR, OWNER)
        self._listening: set[int] = set()
        self.begin()
        self.poll()

    def poll(self) -> Batch:
        """Return the changes since the last poll, and count what was lost."""
        self.follow()
        self._know_listeners()
        found = self.changes.take()
        self.count_losses()
        if not len(found):
            return Batch(CONNECTION, pa.RecordBatch.from_pylist([], CONNECTION.arrow))
        return Batch(CONNECTION, CONNECTION.batch(self._rows(found)))

    def _know_listeners(self) -> None:
        """Tell the program of sockets on which a newly watched process listens already."""
        watched = set(self.targets.watched())
        new = watched - self._listening
        self._listening = watched
        for network, port, pid in listening(new):
            who = proc.stat(pid)
            if who is not None:
                self._doors.set((network, port, 0), (0, who.start_since_boot_ns, pid, 0))

    def _rows(self, x: Records) -> dict[str, Any]:
        clock, node = self.context.clock, self.context.node
        closed = x["state"] == _CLOSE
        return {
            "start_ns": clock.from_monotonic(x["start_ns"].astype(np.int64)),
            "end_ns": pa.array(clock.from_monotonic(x["now_ns"].astype(np.int64)), mask=~closed),
            "node": node,
            "connection_id": connection_ids(x, np.zeros(len(x), np.uint64)),
            "process_uid": process_uids(node, x["process_start_ns"], x["process"]),
            "pid": x["process"].astype(np.int64),
            **columns(x),
            "transport": "tcp",
            "role": ROLES[np.minimum(x["opener"], 2)].tolist(),
            "state": STATES[np.minimum(x["state"], len(STATES) - 1)].tolist(),
            "seen_from_start": x["from_start"] != 0,
            "isn_sent": x["sequence_sent"].astype(np.int64),
            "isn_received": x["sequence_received"].astype(np.int64),
            "sent_bytes": x["written"].astype(np.int64),
            "received_bytes": x["read"].astype(np.int64),
            "retransmits": x["retransmits"].astype(np.int64),
            "network_namespace": x["network"].astype(np.int64),
            # The kernel keeps eight times the smoothed round-trip time, in µs.
            "smoothed_rtt_ns": x["smoothed_rtt"].astype(np.int64) * 125,
        }


def _rules(settings: Settings) -> Rules:
    return Rules.from_texts(settings.http_ports, settings.http_executables, settings.http_cgroups)
