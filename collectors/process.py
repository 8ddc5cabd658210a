"""Processes and their pods: identity for all other rows, without Tetragon.

Reads /proc every two seconds: who started, which cgroup (so which container and pod), which namespaces, what role at a
model server; and who has ended. Needs any Linux; without privilege it sees less of other users' processes (executable,
namespaces). Costs about 20 µs for each process of the node and look. A process that lives for less than two seconds may be
missed: Tetragon sees those. Command lines are kept only where `process_arguments` is on, and then without what looks like a
secret. cgroup v1 and v2, systemd and cgroupfs drivers, containerd, CRI-O, docker and podman; time namespaces are told. A
process is looked at twice, since it may be seen between fork and exec: where the two differ it is told again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from collectors.identity import proc
from collectors.identity.cgroup import container_of
from collectors.identity.proc import Stat
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

PROCESS = schema.table("process")
TABLES = (PROCESS,)
SCOPE = "node"

Row = dict[str, object]

_EVERY_S = 2.0
_ROLES = (
    ("proxy", re.compile(r"\b(envoy|pilot-agent|istio-proxy|nginx|haproxy)\b")),
    ("worker", re.compile(r"VLLM::Worker|sglang::scheduler|tritonserver|ray::RayWorker")),
    ("engine", re.compile(r"VLLM::EngineCore|EngineCore|sglang::detokenizer|demo\.engine\.core")),
    (
        "api_server",
        re.compile(r"vllm[ .]?(serve|entrypoints)|sglang\.launch_server|huggingfaceserver|demo\.server|uvicorn"),
    ),
)
_SECRET = re.compile(r"(?i)(--?[\w-]*(?:token|key|secret|password|credential)[\w-]*)([= ])\S+")


def check(settings: Settings) -> str | None:
    """Return why /proc cannot be read here, or None."""
    if not (proc.PROC / "1" / "stat").exists():
        return "/proc shows no process 1; give the container hostPID, so that it sees the node's processes"
    return None


def run(context: Context) -> Iterator[Batch]:
    """Yield one row for each process that is there or starts, and another when it ends."""
    known: dict[Stat, Row] = {}
    young: set[Stat] = set()
    while True:
        present = {found for pid in proc.pids() if (found := proc.stat(pid)) is not None}
        ended = [_ended(context, known.pop(each)) for each in known.keys() - present]
        looked_at = {each: _describe(context, each) for each in (present - known.keys()) | (young & present)}
        changed = [row for each, row in looked_at.items() if row and row != known.get(each)]
        young = present - known.keys()
        known.update(looked_at)
        yield from _batch([*changed, *(row for row in ended if row)])
        if context.wait(_EVERY_S):
            return


def _batch(rows: list[Row]) -> Iterator[Batch]:
    if rows:
        yield Batch(PROCESS, PROCESS.batch({name: [row[name] for row in rows] for name in rows[0]}))


def _describe(context: Context, found: Stat) -> Row:
    """Return the process's row; empty for a Linux kernel thread, which has no command line and is not told."""
    arguments = proc.arguments(found.pid)
    if not arguments:
        return {}
    path = proc.cgroup_path(found.pid)
    container = container_of(path or "")
    parent = proc.stat(found.parent_pid) if found.parent_pid else None
    start_ns = context.clock.from_boottime(found.start_since_boot_ns)
    line = " ".join(arguments)
    return {
        "start_ns": start_ns,
        "end_ns": None,
        "node": context.node,
        "process_uid": proc.process_uid(context.node, found.start_since_boot_ns, found.pid),
        "pid": found.pid,
        "parent_uid": parent and proc.process_uid(context.node, parent.start_since_boot_ns, parent.pid),
        "executable": proc.link(found.pid, "exe"),
        "arguments": without_secrets(line) if context.settings.process_arguments else None,
        "user_id": proc.user_id(found.pid),
        "cgroup_path": path,
        "runtime": container and container.runtime,
        "container_id": container and container.container_id,
        "pod_uid": container and container.pod_uid,
        "pid_namespace": proc.namespace(found.pid, "pid"),
        "network_namespace": proc.namespace(found.pid, "net"),
        "time_namespace_offset_ns": proc.monotonic_offset_ns(found.pid),
        "role": role_of(line),
        "observed_by": context.name,
    }


def _ended(context: Context, row: Row) -> Row:
    return {**row, "end_ns": context.clock.now_ns()} if row else {}


def role_of(command_line: str) -> str | None:
    """Return what a process is to a model server by its command line, or None where that does not tell."""
    return next((role for role, pattern in _ROLES if pattern.search(command_line)), None)


def without_secrets(command_line: str) -> str:
    """Return a command line in which the values of flags that name a token, key, secret or password are masked."""
    return _SECRET.sub(r"\1\2***", command_line)
