"""From the path of a cgroup to container and pod.

Paths differ by driver (systemd slices, cgroupfs folders), runtime (containerd, CRI-O, docker, podman) and nesting (kind, a
systemd inside of a container); the layouts are those of kubelet and the runtimes, checked in tests/collectors/test_cgroup.py
against real cgroups of both hierarchies. In systemd's names the pod UID has underscores, since a dash separates slices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_POD = re.compile(
    r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=\.slice|/|$)"
)
_CONTAINER = re.compile(
    r"(?:^|[/:])(?:(cri-containerd|containerd|crio|docker|libpod)[-:])?([0-9a-f]{64})(?=\.scope|/|$)"
)
_RUNTIMES = {
    "cri-containerd": "containerd",
    "containerd": "containerd",
    "crio": "cri-o",
    "docker": "docker",
    "libpod": "podman",
}
_QUALITIES = ("besteffort", "burstable")


@dataclass(frozen=True, slots=True)
class Container:
    """What a cgroup's path tells. `runtime` is None where the path does not say (the cgroupfs driver)."""

    container_id: str
    pod_uid: str | None
    runtime: str | None
    quality: str | None
    """Quality-of-service class of the pod: guaranteed, burstable or besteffort; None outside of pods."""


def container_of(path: str) -> Container | None:
    """Return the container that a cgroup at `path` belongs to, or None for a process outside of containers.

    CRI-O's monitor of a container (crio-conmon-…) is none of the container's processes.
    """
    if "crio-conmon-" in path:
        return None
    containers = list(_CONTAINER.finditer(path))
    if not containers:
        return None
    innermost, pod = containers[-1], _POD.search(path)
    pod_uid = pod[1].replace("_", "-") if pod else None
    return Container(innermost[2], pod_uid, _RUNTIMES.get(innermost[1] or ""), _quality(path) if pod else None)


def _quality(path: str) -> str:
    return next((each for each in _QUALITIES if each in path), "guaranteed")


def path_of(proc_cgroup: str) -> str | None:
    """Return the cgroup path that names a process best, from the text of /proc/PID/cgroup.

    On cgroup v1 that is the memory controller's, which every runtime sets; on v2 the only one. A hybrid node's v2 line is
    taken where no v1 path names a container.
    """
    paths: dict[str, str] = {}
    for line in proc_cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            paths["unified"] = path
        for controller in controllers.split(","):
            paths[controller] = path
    candidates = [paths[name] for name in ("memory", "unified", "pids", "name=systemd") if name in paths]
    return next((path for path in candidates if container_of(path)), candidates[0] if candidates else None)
