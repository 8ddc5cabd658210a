"""BPF programs from C text to attached: compiled by `compiled.py`; maps, programs and links are made here.

Functions of the C text are programs by their name: `raw_…` is loaded for raw tracepoints, `uprobe_…` for uprobe_multi links.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from collectors.bpf import btf, elf, probe_point, syscall, uprobe_price
from collectors.bpf.compiled import HERE, Compiled, MapShape, compiled, forget, sentence, why_no_compiler
from collectors.bpf.maps import Map
from collectors.bpf.ring import Ring
from warpline.errors import SourceError

_MACHINES = ("x86_64",)
_TRIAL = bytes.fromhex("b700000000000000 9500000000000000")
"""r0 = 0; exit."""
_INSTRUCTION = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("immediate", "<i4")])
_LOAD_IMMEDIATE, _MAP_DESCRIPTOR = 0x18, 1
"""BPF_LD_IMM64 whose source register says BPF_PSEUDO_MAP_FD. Layout: include/uapi/linux/bpf.h."""
_VERIFIERS = 2


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

    def has_map(self, name: str) -> bool:
        """Return whether the text has a map called `name`."""
        return f"map:{name}" in self._descriptors

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

    def misses(self) -> int:
        """Return how often the kernel left a program out because it was under way on that CPU already."""
        return sum(map(syscall.misses, self._programs()))

    def run_ns(self) -> int:
        """Return the ns that all programs ran for while `syscall.enable_statistics` was in force."""
        return sum(syscall.run_statistics(each)[0] for each in self._programs())

    def trap_ns(self) -> float:
        """Return the ns that the uprobes' traps cost besides, while statistics were in force: hits by their mean price."""
        prices: dict[str, list[float]] = {}
        for function, price in self._traps.values():
            prices.setdefault(function, []).append(price)
        return sum(
            syscall.run_statistics(self.descriptor("program", function))[1] * sum(each) / len(each)
            for function, each in prices.items()
        )

    def _programs(self) -> list[int]:
        return [descriptor for name, descriptor in self._descriptors.items() if name.startswith("program:")]

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


def load(
    text: str, defines: Mapping[str, int] | None = None, twins: Twins | None = None, state_dir: str | Path | None = None
) -> Loaded:
    """Compile and load `text`, with the layouts that it names and `defines` as macros; nothing is attached yet.

    `twins` names uprobe programs that are another function once more, with other maps in the place of its own:
    `{name: (function, {map: other map})}`. Under `state_dir`, what was compiled is kept for the next start.

    Raises SourceError with the compiler's or the verifier's last words.
    """
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    macros = {**btf.macros(text), **({} if unified else {"CGROUP_V1": 1}), **(defines or {})}
    # Without debug information, of which nothing is used here: a sixth of the compiler's time.
    flags = ["-w", "-g0", *(f"-D{name}={value}" for name, value in macros.items())]
    keep = Path(state_dir) / "bpf" if state_dir else None
    made = compiled(text, flags, keep)
    descriptors: dict[str, int] = {}
    try:
        for each in made.maps:
            descriptors[f"map:{each.name}"] = _make_map(each)
        _load_programs(made, twins or {}, descriptors)
    except BaseException:
        Loaded(descriptors).close()
        forget(text, flags, keep)
        raise
    return _knowing_us(Loaded(descriptors))


def _make_map(shape: MapShape) -> int:
    try:
        return syscall.make_map(shape.name, shape.kind, shape.key, shape.value, shape.entries, shape.flags)
    except OSError as error:
        raise SourceError(f"BPF program: map {shape.name} cannot be made: {error.strerror}") from None


def _load_programs(made: Compiled, twins: Twins, descriptors: dict[str, int]) -> None:
    """Load each program and each twin, two at a time: the verifier takes most of a start, and the GIL is not held meanwhile.

    What was loaded is in `descriptors`, also where one fails.
    """
    wanted: dict[str, tuple[str, Mapping[str, str]]] = {**{name: (name, {}) for name in made.programs}, **twins}

    def load_one(name: str) -> None:
        function, maps = wanted[name]
        descriptors[f"program:{name}"] = _load_program(name, made.programs[function], made, descriptors, maps)

    by_size = sorted(wanted, key=lambda name: -len(made.programs[wanted[name][0]]))
    with ThreadPoolExecutor(_VERIFIERS, "verify") as pool:
        list(pool.map(load_one, by_size))


def _load_program(
    name: str, code: bytes, made: Compiled, descriptors: Mapping[str, int], exchanged: Mapping[str, str]
) -> int:
    """Load the instructions `code` with descriptors of maps for their places, or of those that they are `exchanged` for."""
    maps = [descriptors[f"map:{exchanged.get(each.name, each.name)}"] for each in made.maps]
    words = np.frombuffer(code, _INSTRUCTION).copy()
    loads = (words["code"] == _LOAD_IMMEDIATE) & (words["registers"] >> 4 == _MAP_DESCRIPTOR)
    words["immediate"][loads] = np.array(maps, "<i4")[words["immediate"][loads]]
    raw = name.startswith("raw_")
    kind, attach = (syscall.RAW_TRACEPOINT, 0) if raw else (syscall.KPROBE, syscall.UPROBE_MULTI)
    try:
        return syscall.load_program(words.tobytes(), kind, attach, name)
    except OSError as error:
        said = syscall.verifier_log(words.tobytes(), kind, attach)
        raise SourceError(f"BPF program: {sentence(f'{name} cannot be loaded: {error.strerror}', said)}") from None


def _knowing_us(loaded: Loaded) -> Loaded:
    """Tell the programs which process they never watch: no macro, for what is compiled outlives this process."""
    if loaded.has_map("own_process_id"):
        loaded.map("own_process_id", "<u4", "<u4").set(0, os.getpid())
    return loaded


_TRYING = threading.Lock()


def why_not() -> str | None:
    """Return why BPF cannot run here and what to do, as one sentence, found by a trial load; None where it runs.

    The answer is kept. Nothing is compiled for it: whether BCC can, its first program will tell.
    """
    with _TRYING:
        return _why_not()


@lru_cache(maxsize=1)
def _why_not() -> str | None:
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        return f"BPF probes know {', '.join(_MACHINES)} only, and this is {platform.machine()}"
    if not btf.VMLINUX.exists():
        return f"{btf.VMLINUX} is missing: run a kernel with CONFIG_DEBUG_INFO_BTF, and let the container see /sys"
    try:
        _try()
    except OSError as error:
        return _reason(error)
    return why_no_compiler()


@lru_cache
def offers(tracepoint: str) -> bool:
    """Return whether this kernel has a raw tracepoint of that name, found by a trial."""
    try:
        _try(tracepoint)
    except OSError:
        return False
    return True


def load_empty() -> int:
    """Load the least program that there is, for raw tracepoints; return its descriptor. Raises OSError."""
    return syscall.load_program(_TRIAL, syscall.RAW_TRACEPOINT, 0, "trial")


def _try(tracepoint: str = "sys_exit") -> None:
    """Load and attach the least program that there is; raise OSError where the kernel refuses."""
    program = load_empty()
    try:
        os.close(syscall.open_raw_tracepoint(program, tracepoint))
    finally:
        os.close(program)


def _reason(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES) or os.geteuid() != 0:
        return "no privilege for BPF: run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE"
    return f"the trial load of a BPF program failed: {error.strerror}"
