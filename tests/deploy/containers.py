"""Runs a container of a rendered manifest by Debian's containerd and runc, with what the manifest gives it and no more.

Its image is built by `deploy/images/build.sh` and mounted by buildah. Arguments, environment, user, capabilities, seccomp
profile, read-only root, mounts, memory limit and the host's processes are the manifest's own; its network is the namespace
given here, in which every Service of the chart has the address 127.0.0.1.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from collectors.bpf import syscall

ROOT = Path(__file__).resolve().parent.parent.parent
DEFAULTS = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID "
    "SYS_CHROOT"
)
"""Capabilities that ctr gives unasked."""

_NEXT_PROGRAM = 11  # BPF_PROG_GET_NEXT_ID

Object = dict[str, Any]


class Images:
    """The images, in a store of their own."""

    def __init__(self, folder: Path) -> None:
        """Build nothing yet."""
        self.buildah = ["buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        self._environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}

    def build(self) -> str:
        """Build all three; return what was said."""
        environment = {**self._environment, "BUILDAH": " ".join(self.buildah)}
        done = subprocess.run(
            [ROOT / "deploy/images/build.sh"], env=environment, capture_output=True, text=True, check=False
        )
        return done.stderr if done.returncode else ""

    def mount(self, image: str) -> tuple[Path, list[str], list[str]]:
        """Return the image's root folder, its entry point and its environment."""
        container = self._ask("from", "--pull-never", f"localhost/{image}")
        config = json.loads(self._ask("inspect", container))["OCIv1"]["config"]
        return Path(self._ask("mount", container)), config["Entrypoint"], config["Env"]

    def _ask(self, *words: str) -> str:
        command = [*self.buildah, *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()


def of_manifest(manifest: Path, name: str) -> tuple[Object, Object]:
    """Return (container, pod) of the container that the manifest calls `name`."""
    for each in yaml.safe_load_all(manifest.read_text()):
        pod = ((each or {}).get("spec") or {}).get("template", {}).get("spec", {})
        for container in pod.get("containers", []):
            if container["name"] == name:
                return container, pod
    raise KeyError(name)


def mounts(container: Object, pod: Object, folder: Path) -> Iterator[str]:
    """Yield ctr's words for each mount. Folders of Warpline's own, secrets and empty ones come from `folder`."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        host = volumes.get(mount["name"], {}).get("hostPath", {}).get("path", "")
        source = Path(host) if host.startswith("/sys/") else folder / mount["name"] / mount.get("subPath", "")
        source.mkdir(parents=True, exist_ok=True)
        mode = "ro" if mount.get("readOnly") else "rw"
        yield f"type=bind,src={source},dst={mount['mountPath']},options=rbind:{mode}"


@contextmanager
def running(
    socket: Path, images: Images, manifest: Path, name: str, folder: Path, network: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a container until the block ends, then kill it with SIGKILL; its output is `folder`/`name`.log."""
    container, pod = of_manifest(manifest, name)
    root, entry, environment = images.mount(container["image"])
    given = {each["name"]: each.get("value", "127.0.0.1") for each in container["env"]}
    given = {name: value.replace("$(NODE_IP)", given.get("NODE_IP", "")) for name, value in given.items()}
    context = container["securityContext"]
    flags = ["--rootfs", "--seccomp", "--with-ns", f"network:/run/netns/{network}"]
    flags += ["--read-only"] if context["readOnlyRootFilesystem"] else []
    flags += ["--allow-new-privs"] if context["allowPrivilegeEscalation"] else []
    flags += [f"--cap-drop=CAP_{each}" for each in DEFAULTS.split()]
    flags += [f"--cap-add=CAP_{each}" for each in context["capabilities"].get("add", [])]
    flags += [f"--memory-limit={_bytes(container['resources']['limits']['memory'])}"]
    flags += [f"--env={each}" for each in environment] + [f"--env={key}={value}" for key, value in given.items()]
    flags += [f"--mount={each}" for each in mounts(container, pod, folder)]
    flags += [f"--mount=type=bind,src={folder}/hosts,dst=/etc/hosts,options=rbind:ro"]
    ctr = ["ctr", "-a", str(socket)]
    subprocess.run(
        [*ctr, "container", "create", *flags, str(root), f"plan-{_id(name)}", *entry, *container["args"]],
        capture_output=True, check=True,
    )  # fmt: skip
    told = subprocess.run([*ctr, "container", "info", f"plan-{_id(name)}"], capture_output=True, check=True).stdout
    subprocess.run([*ctr, "container", "delete", f"plan-{_id(name)}"], capture_output=True, check=True)
    spec = json.loads(told)["Spec"]  # ctr knows neither users nor the host's processes; its plan does.
    spec["process"]["user"] = {"uid": context.get("runAsUser", 0), "gid": context.get("runAsGroup", 0)}
    if pod.get("hostPID"):
        spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "pid"]
    plan = folder / f"{name}.json"
    plan.write_text(json.dumps(spec))
    command = [*ctr, "run", "--rm", "--config", str(plan), _id(name)]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        kill = ["ctr", "-a", str(socket), "task", "kill", "--all", "-s", "SIGKILL", _id(name)]
        subprocess.run(kill, capture_output=True, check=False)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _id(name: str) -> str:
    """A container's name here: runc keeps those of every containerd of the machine in one place."""
    return f"warpline-{os.getpid()}-{name}"


def pid_of(socket: Path, name: str) -> int:
    """Return the process id of a running container's first process, as the host counts."""
    listing = ["ctr", "-a", str(socket), "task", "ls"]
    lines = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{_id(name)} ")), 0)


def _bytes(text: str) -> int:
    units = {"Mi": 1 << 20, "Gi": 1 << 30}
    return int(text[:-2]) * units[text[-2:]]


def bpf_programs_of(pid: int) -> set[int]:
    """Return the ids of the BPF programs that a process and its children hold."""
    found = set[int]()
    for each in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        for told in Path(f"/proc/{each.pid}/fdinfo").glob("*"):
            with suppress(OSError):
                found |= {int(line.split()[1]) for line in told.read_text().splitlines() if line.startswith("prog_id:")}
    return found


def bpf_programs() -> set[int]:
    """Return the ids of the BPF programs that the Linux kernel holds now."""
    found, before = set[int](), 0
    while True:
        room = ctypes.create_string_buffer(struct.pack("<II", before, 0), 152)
        if syscall.call(_NEXT_PROGRAM, room) < 0:
            return found
        before = struct.unpack_from("<II", room)[1]
        found.add(before)


def registered_probes(tracefs: Path) -> str:
    """Return the probes that are registered in tracefs, where uprobe_multi links and raw tracepoints leave none.

    Nothing where the Linux kernel keeps no such list, and so cannot register any.
    """
    lists = (tracefs / f"{kind}_events" for kind in ("uprobe", "kprobe"))
    return "".join(each.read_text() for each in lists if each.exists())
