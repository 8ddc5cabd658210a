"""Hosts as network namespaces of one machine, joined by cables that can be cut, and processes on them.

One Linux kernel runs them all, so what tells hosts apart is made here: a host's workload lies in a cgroup of its own, by
which its collector chooses (`http_cgroups`); its node's name, state and clock are its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from warpline.clock import boot_id, read_pair

ROOT = Path(__file__).resolve().parent.parent.parent
PROXY = ROOT / "tests/l4_proxy.py"


def why_no_hosts() -> str | None:
    """Why hosts cannot be made here."""
    missing = [each for each in ("ip", "nft", "nsenter") if not shutil.which(each)]
    if missing:
        return f"hosts cannot be made without {', '.join(missing)}"
    if _cgroups() is None:
        return "no hierarchy of cgroup v2 is mounted in which a cgroup can be made"
    return None


def _cgroups() -> Path | None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    return next((Path(m[1]) for m in mounts if m[2] == "cgroup2" and os.access(m[1], os.W_OK)), None)


class Host:
    """One host: a network namespace, a cgroup for its workload, a directory for its state, and what runs on it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.net = f"warpline-{os.getpid()}-{name}"
        self.state_dir = folder / name
        self.state_dir.mkdir()
        cgroups = _cgroups()
        assert cgroups is not None
        self.cgroup = cgroups / self.net
        self.processes: list[subprocess.Popen[bytes]] = []
        made = subprocess.run(["ip", "netns", "add", self.net], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        self.cgroup.mkdir()
        run("ip", "-n", self.net, "link", "set", "lo", "up")

    def set_clock(self, ahead_ns: int) -> None:
        """Have node time of this host read so far ahead of the wall clock."""
        pair = read_pair()
        anchor = self.state_dir / f"clock-anchor-{boot_id()}"
        anchor.write_text(str(pair.realtime_ns - pair.monotonic_ns + ahead_ns), encoding="ascii")

    def anchor_ns(self) -> int:
        """What this host's node time is CLOCK_MONOTONIC plus."""
        return int((self.state_dir / f"clock-anchor-{boot_id()}").read_text(encoding="ascii"))

    def workload(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a Python program in the namespace and the cgroup of this host; its pipes are the caller's."""
        into = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        words = ["sh", "-c", into, str(self.cgroup), *self._here, *command]
        return self._start(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def program(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a Python program in the namespace of this host, outside its workload; its output is the caller's."""
        return self._start([*self._here, *command], stdout=subprocess.PIPE)

    @property
    def _here(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.net}", sys.executable]

    def warpline(self, *arguments: str, **settings: object) -> subprocess.Popen[bytes]:
        """Start a process of Warpline's in the namespace of this host; what it says goes to a file beside its state."""
        given = {"node": self.name, "state_dir": self.state_dir, **settings}
        environment = os.environ | {f"WARPLINE_{key.upper()}": str(value) for key, value in given.items()}
        with self.log.open("ab") as log:
            return self._start([*self._here, "-m", "warpline.cli", *arguments], stderr=log, cwd=ROOT, env=environment)

    def _start(self, words: list[str], **given: object) -> subprocess.Popen[bytes]:
        self.processes.append(subprocess.Popen(words, **given))  # type: ignore[call-overload]
        return self.processes[-1]

    @property
    def log(self) -> Path:
        """What Warpline's processes said here."""
        return self.state_dir.parent / f"{self.name}.log"

    def loses(self, every: int) -> None:
        """Drop one in `every` of the TCP segments with data that come in: those longer than a head with its options."""
        rule = f"meta l4proto tcp ip length > 72 numgen inc mod {every} == 0 drop"
        chain = f"chain rules {{ type filter hook input priority 0; {rule}; }}"
        run("ip", "netns", "exec", self.net, "nft", f"table ip warpline {{ {chain}; }}")

    def loses_nothing(self) -> None:
        """Drop nothing more."""
        run("ip", "netns", "exec", self.net, "nft", "delete table ip warpline")

    def close(self) -> None:
        """Kill what runs here and remove the host."""
        for each in self.processes:
            with suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
            each.communicate()
        psutil.wait_procs([psutil.Process(pid) for pid in _inside(self.cgroup)], 20)
        run("ip", "netns", "del", self.net)
        self.cgroup.rmdir()


def _inside(cgroup: Path) -> list[int]:
    return [pid for pid in map(int, (cgroup / "cgroup.procs").read_text().split()) if psutil.pid_exists(pid)]


class Cable:
    """A link between two hosts, or between one and this machine, with an address at each end."""

    def __init__(self, one: Host, other: Host | None, subnet: str) -> None:
        self.ends = [(one, f"{subnet}.1"), (other, f"{subnet}.2")]
        self.devices = [f"wl{os.getpid() % 100000}{subnet.rpartition('.')[2]}{end}" for end in "ab"]
        run("ip", "link", "add", self.devices[0], "type", "veth", "peer", "name", self.devices[1])
        for device, (host, address) in zip(self.devices, self.ends, strict=True):
            if host is not None:
                run("ip", "link", "set", device, "netns", host.net)
            run(*_ip(host), "addr", "add", f"{address}/24", "dev", device)
            run(*_ip(host), "link", "set", device, "up")

    def cut(self) -> None:
        """Nothing passes any more."""
        run(*_ip(self.ends[0][0]), "link", "set", self.devices[0], "down")

    def mend(self) -> None:
        """All passes again."""
        run(*_ip(self.ends[0][0]), "link", "set", self.devices[0], "up")


def _ip(host: Host | None) -> list[str]:
    return ["ip"] if host is None else ["ip", "-n", host.net]


def run(*words: str) -> None:
    """Run a command that has to succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
