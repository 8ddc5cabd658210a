"""Which processes are watched: by port, by a part of the command line, by a part of the cgroup's path.

The map `targets` of `targets.bpf.h` holds them. The Linux kernel follows forks, and processes that begin to listen on, or
connect to, a watched port, and tells of each execution, since a command line shows only then. Of a socket that several hold
(workers of one server, and their parent) it tells the first alone that listens: the others are looked for then. A process
that was found is watched until it exits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from collectors.bpf.loader import Loaded

WATCH_ALL, WATCH_PORTS = 1, 2
FOLLOW = {"raw_fork": "sched_process_fork", "raw_exec": "sched_process_exec", "raw_exit": "sched_process_exit"}
"""Functions of targets.bpf.h and the raw tracepoints that they belong to."""

_PROC = Path("/proc")
_LISTEN, _ESTABLISHED = "0A", "01"
_SWEEP_S = 5.0


@dataclass(frozen=True)
class Rules:
    """What makes a process watched: any one of these is enough."""

    ports: tuple[int, ...] = ()
    executables: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()

    @classmethod
    def from_texts(cls, ports: str, executables: str, cgroups: str) -> Rules:
        """Read comma-separated settings; a port that is no number is left out."""
        numbers = tuple(int(each) for each in _items(ports) if each.isdigit() and int(each) < 1 << 16)
        return cls(numbers, tuple(_items(executables)), tuple(_items(cgroups)))

    def __bool__(self) -> bool:
        return bool(self.ports or self.executables or self.cgroups)


class Targets:
    """Keeps the map `targets` of a loaded program true to the rules."""

    def __init__(self, loaded: Loaded, rules: Rules) -> None:
        """Attach what follows forks, executions and exits, and look at all processes once."""
        self.rules = rules
        self._targets = loaded.map("targets", "<u4", "<u4")
        self._executions = loaded.ring("executions", [("process", "<u4"), ("unused", "<u4")])
        self._missed = loaded.map("missed_executions", "<u4", "<u8")
        self._missed_before = 0
        self._swept_s = time.monotonic()
        self._listeners = loaded.map("listeners", "<u4", "<u8")
        self._listeners_before = 0
        self._ports = loaded.map("ports", "<u2", "<u4")
        self._numbers: set[int] = set()
        loaded.attach_raw(FOLLOW)
        self._look(_processes())
        self.watch_ports(rules.ports)

    def watch_ports(self, ports: Sequence[int]) -> None:
        """Watch whoever listens on, or is connected to, one of `ports`, now or later."""
        self._ports.update(np.array(ports, "<u2"), np.ones(len(ports), "<u4"))
        self._numbers |= set(ports)
        self._look_at_ports(set(ports))

    def _look_at_ports(self, ports: set[int]) -> None:
        for pid, how in _by_port(ports):
            self.watch(pid, how)

    def watch(self, pid: int, how: int = WATCH_ALL) -> None:
        """Watch process `pid` and what it forks: all its sockets, or (WATCH_PORTS) those of watched ports."""
        if pid != os.getpid():
            self._targets.set(pid, how)

    def watched(self) -> list[int]:
        """Return the ids of the processes that are watched now."""
        return sorted(self._targets.items()[0].tolist())

    def refresh(self) -> None:
        """Look at the processes that were executed since the last look; every 5 s, let go of those that are gone."""
        self._look(set(self._executions.take()["process"].tolist()))
        listeners = int(self._listeners.get(0) or 0)
        if listeners != self._listeners_before:
            self._listeners_before = listeners
            self._look_at_ports(self._numbers)
        now = time.monotonic()
        if now < self._swept_s + _SWEEP_S:
            return
        self._swept_s = now
        for pid in self.watched():
            if not (_PROC / str(pid)).exists():
                self._targets.delete(pid)
        missed = int(self._missed.get(0) or 0)
        if missed != self._missed_before:  # The ring was full: some executions were not told.
            self._missed_before = missed
            self._look(_processes())

    def look_again(self) -> None:
        """Look at all processes once more: some give themselves their name long after they began (setproctitle)."""
        self._look(_processes())

    def _look(self, pids: Iterable[int]) -> None:
        if self.rules.executables or self.rules.cgroups:
            for pid in pids:
                if _matches(self.rules, pid):
                    self.watch(pid)


def chosen(rules: Rules) -> dict[int, str]:
    """Return the processes that the rules name now, each with the name of its program."""
    pids = {pid for pid in _processes() if _matches(rules, pid)} | {pid for pid, _ in _by_port(set(rules.ports))}
    return {pid: _text(pid, "comm").strip() for pid in sorted(pids - {os.getpid()})}


def _matches(rules: Rules, pid: int) -> bool:
    if rules.executables and any(part in _command(pid) for part in rules.executables):
        return True
    return bool(rules.cgroups) and any(part in _text(pid, "cgroup") for part in rules.cgroups)


def _items(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _text(pid: int, name: str) -> str:
    try:
        return (_PROC / str(pid) / name).read_bytes().decode(errors="replace")
    except OSError:  # It is gone, or was never ours to read.
        return ""


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(_PROC / str(pid) / name)
    except OSError:  # Closed, or gone, since it was listed.
        return ""


def _command(pid: int) -> str:
    return _text(pid, "cmdline").replace("\0", " ")


def _processes() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]


def _by_port(ports: set[int]) -> Iterator[tuple[int, int]]:
    """Yield processes that now listen on one of `ports`, or are connected to one, with how to watch each."""
    if not ports:
        return
    how: dict[str, int] = {}
    sockets_of = {pid: _sockets(pid) for pid in _processes()}
    for pid in _one_of_each_network(sockets_of):
        for inode, state, local, remote in _tcp(pid):
            if state == _LISTEN and local in ports:
                how[inode] = WATCH_ALL
            elif state == _ESTABLISHED and remote in ports:
                how[inode] = WATCH_PORTS
    for pid, sockets in sockets_of.items():
        ways = [how[inode] for inode in sockets if inode in how]
        if ways:
            yield pid, min(ways)


def listening(pids: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (inode of the network namespace, port, pid) of each TCP socket on which one of `pids` listens now."""
    sockets_of = {pid: _sockets(pid) for pid in pids}
    for first in _one_of_each_network(sockets_of):
        network = _link(first, "ns/net")
        doors = {inode: local for inode, state, local, _ in _tcp(first) if state == _LISTEN}
        for pid, sockets in sockets_of.items():
            if network and _link(pid, "ns/net") == network:
                yield from ((int(network[5:-1]), doors[inode], pid) for inode in sockets & doors.keys())


def _sockets(pid: int) -> set[str]:
    try:
        names = os.listdir(_PROC / str(pid) / "fd")
    except OSError:
        return set()
    links = [_link(pid, f"fd/{name}") for name in names]
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def _one_of_each_network(pids: Iterable[int]) -> list[int]:
    networks: dict[str, int] = {}
    for pid in pids:
        networks.setdefault(_link(pid, "ns/net"), pid)
    return list(networks.values())


def _tcp(pid: int) -> Iterator[tuple[str, str, int, int]]:
    """Yield (inode, state, local port, remote port) of each TCP socket in the network of `pid` (proc_net_tcp.rst)."""
    for name in ("net/tcp", "net/tcp6"):
        for line in _text(pid, name).splitlines()[1:]:
            cells = line.split()
            yield cells[9], cells[3], int(cells[1].rpartition(":")[2], 16), int(cells[2].rpartition(":")[2], 16)
