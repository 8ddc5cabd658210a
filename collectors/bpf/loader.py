"""BPF programs from C text to attached: BCC compiles in a short child, the descriptors come here, links are made here.

Functions of the C text are programs by their name: `raw_…` is loaded for raw tracepoints, `uprobe_…` for uprobe_multi links.
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy.typing as npt

from collectors.bpf import btf, elf, probe_point, syscall, uprobe_price
from collectors.bpf.maps import Map
from collectors.bpf.ring import Ring
from warpline.errors import SourceError

HERE = Path(__file__).resolve().parent
_MACHINES = ("x86_64",)
_COMPILE_SECONDS = 120
_MOST_DESCRIPTORS = 250  # SCM_MAX_FD is 253
_TRIAL = "int raw_trial(struct bpf_raw_tracepoint_args *ctx) { return 0; }"


class Loaded:
    """One loaded program text: its maps and programs by name, and what is attached. Closing it detaches everything."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        """Own `descriptors`, each named `map:<name>` or `program:<function>`."""
        self._descriptors = dict(descriptors)
        self._links: dict[object, int] = {}
        self._traps: dict[object, tuple[str, float]] = {}

    def descriptor(self, kind: str, name: str) -> int:
        """Return the file descriptor of the "map" or "program" called `name`."""
        return self._descriptors[f"{kind}:{name}"]

    def map(self, name: str, key: npt.DTypeLike, value: npt.DTypeLike) -> Map:
        """Return the map called `name` as one of these dtypes."""
        return Map(self.descriptor("map", name), key, value)

    def clear(self, name: str) -> None:
        """Take every entry out of the map called `name`, whatever its types."""
        # struct bpf_map_info: type, id, size of a key, size of a value
        info = syscall.object_info(self.descriptor("map", name), 16)
        key, value = (int.from_bytes(info[at : at + 4], sys.byteorder) for at in (8, 12))
        self.map(name, f"V{key}", f"V{value}").items(delete=True)

    def ring(self, name: str, record: npt.DTypeLike) -> Ring:
        """Return a reader of the ring called `name`, whose records are of dtype `record`."""
        descriptor = self.descriptor("map", name)
        size = int.from_bytes(syscall.object_info(descriptor, 20)[16:20], sys.byteorder)
        return Ring(descriptor, size, record)

    def set_tail_calls(self, table: str, functions: Sequence[str]) -> None:
        """Fill program array `table`: its element i runs `functions[i]`."""
        programs = self.map(table, "<u4", "<u4")
        for number, function in enumerate(functions):
            programs.set(number, self.descriptor("program", function))

    def attach_raw(self, functions: Mapping[str, str]) -> None:
        """Attach each function to the raw tracepoint it maps to; raise SourceError that names one that fails."""
        for function, tracepoint in functions.items():
            try:
                link = syscall.open_raw_tracepoint(self.descriptor("program", function), tracepoint)
            except OSError as error:
                raise SourceError(
                    f"raw tracepoint {tracepoint}: {error.strerror}; this kernel does not offer it"
                ) from None
            self._links[function, tracepoint] = link

    def attach_uprobes(
        self,
        function: str,
        path: str,
        offsets: Sequence[int],
        on_return: bool = False,
        pid: int = 0,
        cookies: Sequence[int] = (),
    ) -> object:
        """Attach `function` at file offsets of `path` (see `elf.symbols`); return the key that `detach` takes.

        Raises OSError, with the kernel's reason.
        """
        program = self.descriptor("program", function)
        link = syscall.link_uprobes(program, path, list(offsets), on_return, pid, list(cookies) or None)
        key = (function, path, on_return, pid, link)
        self._links[key] = link
        self._traps[key] = function, _trap_ns(path, offsets, on_return)
        return key

    def detach(self, key: object | None = None) -> None:
        """Detach one link, or all; maps and programs stay, and may be attached again."""
        for each in [key] if key is not None else list(self._links):
            os.close(self._links.pop(each))
            self._traps.pop(each, None)

    def run_ns(self) -> int:
        """Return the ns that all programs ran for while `syscall.enable_statistics` was in force."""
        programs = [fd for name, fd in self._descriptors.items() if name.startswith("program:")]
        return sum(syscall.run_statistics(each)[0] for each in programs)

    def trap_ns(self) -> float:
        """Return the ns that the uprobes' traps cost besides, while statistics were in force: hits by their mean price."""
        prices: dict[str, list[float]] = {}
        for function, price in self._traps.values():
            prices.setdefault(function, []).append(price)
        return sum(
            syscall.run_statistics(self.descriptor("program", function))[1] * sum(each) / len(each)
            for function, each in prices.items()
        )

    def close(self) -> None:
        """Detach and free everything."""
        self.detach()
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def _trap_ns(path: str, offsets: Sequence[int], on_return: bool) -> float:
    """Return what a hit of one of these probes costs on the mean, its program left out; 0 where that cannot be measured."""
    price = uprobe_price.measured()
    if price is None or on_return:
        return price.return_ns if price else 0.0
    first = [elf.first_bytes(Path(path), each) for each in offsets]
    return sum(price.entry_ns(probe_point.is_emulated(code)) for code in first) / len(first)


def read(*names: str) -> str:
    """Return the C text of the files `names` of this folder, one after the other, the prelude first."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("prelude.bpf.h", *names))


Twins = Mapping[str, tuple[str, Mapping[str, str]]]


def load(text: str, defines: Mapping[str, int] | None = None, twins: Twins | None = None) -> Loaded:
    """Compile and load `text`, with the layouts that it names and `defines` as macros; nothing is attached yet.

    `twins` names uprobe programs that are another function once more, with other maps in the place of its own:
    `{name: (function, {map: other map})}`.

    Takes one to two seconds. Raises SourceError with the compiler's or the verifier's last words.
    """
    layouts = btf.macros(text)
    macros = {**layouts, **_node(), **(defines or {})}
    flags = ["-w", *(f"-D{name}={value}" for name, value in macros.items())]
    job = {"text": text, "flags": flags, "headers": str(HERE / "stub_headers"), "twins": dict(twins or {})}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # What it says goes to a file: a verifier's log is longer than a pipe holds.
    with ours, tempfile.TemporaryFile() as said:
        # A new interpreter, not a fork: the collector has threads, and a fork would copy their locks.
        child = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "child.py"), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        theirs.close()
        try:
            return _receive(ours, child, json.dumps(job).encode(), said)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()


def _node() -> dict[str, int]:
    """What every program knows of the node: whose sockets are never watched, and where pods' cgroups live."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return {"OWN_PROCESS": os.getpid()} | ({} if unified else {"CGROUP_V1": 1})


def _receive(ours: socket.socket, child: subprocess.Popen[bytes], job: bytes, said: IO[bytes]) -> Loaded:
    ours.settimeout(_COMPILE_SECONDS)
    try:
        ours.sendall(job)
        ours.shutdown(socket.SHUT_WR)
        message, descriptors, _, _ = socket.recv_fds(ours, 1 << 16, _MOST_DESCRIPTORS)
    except OSError as error:
        raise SourceError(f"BPF compiler: no answer ({error}); see the node's memory limit") from None
    child.wait(_COMPILE_SECONDS)
    said.seek(0)
    answer = json.loads(message) if message else {"error": f"it ended with exit code {child.returncode}"}
    if "error" in answer:
        raise SourceError(f"BPF program: {_sentence(answer['error'], said.read().decode(errors='replace'))}")
    for each in descriptors:
        os.set_inheritable(each, False)
    return Loaded(dict(zip(answer["names"], descriptors, strict=True)))


def _sentence(error: str, said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line] or lines[-3:]
    return re.sub(r"\s+", " ", " | ".join([error, *telling[:3]]))


_TRYING = threading.Lock()


def why_not() -> str | None:
    """Return why BPF cannot run here and what to do, as one sentence, found by a trial load; None where it runs.

    The answer is kept: the first call costs about half a second, and sources that start with it wait for it.
    """
    with _TRYING:
        return _why_not()


@lru_cache(maxsize=1)
def _why_not() -> str | None:
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        return f"BPF probes know {', '.join(_MACHINES)} only, and this is {platform.machine()}"
    if not btf.VMLINUX.exists():
        return f"{btf.VMLINUX} is missing: run a kernel with CONFIG_DEBUG_INFO_BTF, and let the container see /sys"
    loaded = None
    try:
        loaded = load(_TRIAL)
        loaded.attach_raw({"raw_trial": "sys_exit"})
    except SourceError as error:
        return _reason(str(error))
    finally:
        if loaded is not None:
            loaded.close()
    return None


def _reason(error: str) -> str:
    if "bcc cannot be imported" in error:
        return (
            "bcc is missing: install Debian's python3-bpfcc where this Python can import it (PyPI's bcc is unrelated)"
        )
    if any(words in error for words in ("not permitted", "ermission", "super-user", "Lockdown")) or os.geteuid() != 0:
        return "no privilege for BPF: run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE"
    return f"the trial load of a BPF program failed: {error}"
