"""What /proc tells of a process. A process that ends while it is read is no error: the answer is None.

`process_uid` is `<node>:<start in ns since boot>:<pid>`: the start is /proc/PID/stat's, in clock ticks of 10 ms, so that
every source makes the same one (a BPF program rounds task->start_boottime down to the tick).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from collectors.identity.cgroup import path_of

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def process_uid(node: str, start_since_boot_ns: int, pid: int) -> str:
    """Return the process's name in every table, from its start in ns since boot (CLOCK_BOOTTIME)."""
    return f"{node}:{start_since_boot_ns // TICK_NS * TICK_NS}:{pid}"


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of /proc/PID/stat that identity needs."""

    pid: int
    parent_pid: int
    start_since_boot_ns: int


def pids(proc: Path = PROC) -> list[int]:
    """Return the ids of all processes in the PID namespace of `proc`."""
    return [int(name) for name in os.listdir(proc) if name.isdigit()]


def stat(pid: int, proc: Path = PROC) -> Stat | None:
    """Return who a process is, or None where it has ended."""
    text = read(pid, "stat", proc)
    if not text:
        return None
    # The command may hold spaces and brackets: the fields count from the last bracket on (proc(5)).
    fields = text.rpartition(")")[2].split()
    return Stat(pid, int(fields[1]), int(fields[19]) * TICK_NS)


def read(pid: int, name: str, proc: Path = PROC) -> str | None:
    """Return the text of /proc/PID/name, or None where the process has ended or may not be read."""
    try:
        return (proc / str(pid) / name).read_bytes().decode("utf-8", "replace")
    except OSError:
        return None


def link(pid: int, name: str, proc: Path = PROC) -> str | None:
    """Return where the link /proc/PID/name points, or None."""
    try:
        return os.readlink(proc / str(pid) / name)
    except OSError:
        return None


def namespace(pid: int, kind: str, proc: Path = PROC) -> int | None:
    """Return the inode of a process's namespace (pid, net, time, …), or None."""
    found = re.fullmatch(r"\w+:\[(\d+)\]", link(pid, f"ns/{kind}", proc) or "")
    return int(found[1]) if found else None


def monotonic_offset_ns(pid: int, proc: Path = PROC) -> int | None:
    """Return what a process's CLOCK_MONOTONIC has beyond the host's (time_namespaces(7)), or None where unknown."""
    for line in (read(pid, "timens_offsets", proc) or "").splitlines():
        name, seconds, nanoseconds = line.split()
        if name in ("monotonic", "1"):
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return None


def cgroup_path(pid: int, proc: Path = PROC) -> str | None:
    """Return the cgroup path that names the process's container, if it is in one."""
    return path_of(read(pid, "cgroup", proc) or "")


def user_id(pid: int, proc: Path = PROC) -> int | None:
    """Return the process's effective user id, or None."""
    try:
        return os.stat(proc / str(pid)).st_uid
    except OSError:
        return None


def arguments(pid: int, proc: Path = PROC) -> list[str]:
    """Return the command line; empty for a Linux kernel thread or a process that has ended."""
    return [each for each in (read(pid, "cmdline", proc) or "").split("\0") if each]
