"""BPF C to instructions: BCC compiles in a short child, and what came of it is kept, so that a restart need not compile.

Instructions hang on the text, the macros (the running kernel's layouts among them), the compiler and the kernel's version;
all of these are in the kept file's name. The kernel verifies them at each load, whoever made them.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import logging
import os
import platform
import re
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warpline.errors import SourceError

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
HEADERS = HERE / "stub_headers"
_COMPILE_SECONDS = 120
_COMPILERS = threading.BoundedSemaphore(2)
"""Each child takes over 100 MB: six sources that start at once would need more memory than the collector ever again."""
_KEPT = 24
"""Files that are kept: three sets of the eBPF sources, and some."""


@dataclass(frozen=True, slots=True)
class MapShape:
    """A map as bpf(2) is told to make it: its type's number, sizes in bytes, most entries, flags."""

    name: str
    kind: int
    key: int
    value: int
    entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """Maps, and each function's instructions, in which the maps' places in `maps` stand for their descriptors."""

    maps: tuple[MapShape, ...]
    programs: dict[str, bytes]


def why_no_compiler() -> str | None:
    """Return why BCC is not there to compile, without importing it; None where it is."""
    folder = _bcc()
    if folder is None:
        return (
            "bcc is missing: install Debian's python3-bpfcc where this Python can import it (PyPI's bcc is unrelated)"
        )
    return None


def compiled(text: str, flags: list[str], keep: Path | None) -> Compiled:
    """Return what `text` is under the compiler's `flags`: as kept in folder `keep`, or compiled now and kept there.

    Compiling takes 0.2 to 1 seconds of CPU time. Raises SourceError with the compiler's last words.
    """
    path = _path(text, flags, keep)
    found = _kept(path) if path else None
    if found is not None:
        return found
    with _COMPILERS:
        answer = _compile(text, flags)
    made = _understood(answer)
    if path:
        _keep(path, answer)
    return made


def forget(text: str, flags: list[str], keep: Path | None) -> None:
    """Remove what is kept of `text`: the kernel refused it, so that it shall be compiled anew."""
    path = _path(text, flags, keep)
    if path:
        path.unlink(missing_ok=True)


def _path(text: str, flags: list[str], keep: Path | None) -> Path | None:
    return keep / f"{_key(text, flags)}.json" if keep else None


def _compile(text: str, flags: list[str]) -> dict[str, Any]:
    job = json.dumps({"text": text, "flags": flags, "headers": str(HEADERS)}).encode()
    # A new interpreter, not a fork: the collector has threads, and a fork would copy their locks.
    command = [sys.executable, "-P", str(HERE / "child.py")]
    try:
        ended = subprocess.run(command, input=job, capture_output=True, timeout=_COMPILE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SourceError(f"BPF compiler: no answer in {_COMPILE_SECONDS} s; see the node's memory limit") from None
    try:
        answer: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        answer = {"error": f"it ended with exit code {ended.returncode}; see the node's memory limit"}
    if "error" in answer:
        raise SourceError(f"BPF program: {sentence(answer['error'], ended.stderr.decode(errors='replace'))}")
    return answer


def sentence(error: str, said: str) -> str:
    """Return `error` with what tells most of what a compiler or the verifier `said`, on one line."""
    lines = [line for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line] or lines[-3:]
    return re.sub(r"\s+", " ", " | ".join([error, *telling[:3]]))


def _understood(answer: dict[str, Any]) -> Compiled:
    return Compiled(
        tuple(MapShape(*each) for each in answer["maps"]),
        {name: base64.b64decode(code) for name, code in answer["programs"].items()},
    )


def _key(text: str, flags: list[str]) -> str:
    folder = _bcc()
    own: Iterable[Path] = [HERE / "child.py", *sorted(each for each in HEADERS.rglob("*") if each.is_file())]
    compiler = (
        [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in folder.glob("*.py")] if folder else []
    )
    parts = [text, flags, platform.release(), platform.version(), sorted(compiler)]
    digest = hashlib.sha256(json.dumps(parts).encode())
    for each in own:
        digest.update(each.read_bytes())
    return digest.hexdigest()[:40]


def _bcc() -> Path | None:
    found = importlib.util.find_spec("bcc")
    folder = Path(found.origin).parent if found and found.origin else None
    return folder if folder and (folder / "libbcc.py").exists() else None


def _kept(path: Path) -> Compiled | None:
    """Return what `path` holds; None where there is none, where others could have written it, or where it is damaged."""
    try:
        with path.open(encoding="utf-8") as file:
            state = os.fstat(file.fileno())
            if state.st_uid != os.geteuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                log.warning("%s: others could have written it; compiling anew", path)
                return None
            found = _understood(json.load(file))
        os.utime(path)
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: cannot be used (%s); compiling anew", path, error)
        return None


def _keep(path: Path, answer: dict[str, Any]) -> None:
    """Write `answer` to `path`, whole or not at all, and remove the files that were not used for longest."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
            json.dump(answer, file)
        os.replace(file.name, path)
        for old in sorted(path.parent.iterdir(), key=lambda each: each.stat().st_mtime_ns)[:-_KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.info("%s: compiled programs are not kept: %s", path, error.strerror)
