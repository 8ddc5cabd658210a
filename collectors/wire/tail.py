"""Files that grow and are rotated by rename, followed by inode, across restarts of the collector.

Several are followed by turns. What was read is remembered in `state_dir` (inode, a fingerprint of the first bytes, offset):
before a block of lines is handed on its ends and the name of the batch that it becomes, and behind it, once it was, that it
is done. A restart continues there, after a kill as well: a block that may or may not have been handed on is told again under
the same name, and so is stored once.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from warpline.source import Context

_BLOCK_BYTES = 2 << 20
"""So that the rows of a block leave as one batch: its name must always mean the same rows."""
_LINE_BYTES = 16 << 20
_FINGERPRINT_BYTES = 128
_IDLE_S = 0.25


Shifts = tuple[int, int]
"""What to add to times of CLOCK_REALTIME and of CLOCK_BOOTTIME to have node time, in ns."""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a file, and the name that the batch of their rows must have; no lines where there is nothing new."""

    path: Path = Path()
    lines: bytes = b""
    name: str = ""
    shifts: Shifts = (0, 0)


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in a file: `offset`; with a `name`, that of the block from `begun` on, which may not have been handed on."""

    inode: int
    offset: int
    modified_ns: int
    head: str
    head_bytes: int
    begun: int = 0
    name: str = ""
    shifts: Shifts = (0, 0)
    """As they were first: told again, a row near midnight must not fall on another day, whose ledger knows no such name."""


def follow(patterns: str, context: Context) -> Iterator[Block]:
    """Yield whole lines of all files that `patterns` (comma-separated, with wildcards) name, until stopped.

    Renamed predecessors that were not read to their end are read first. What is known to be missed is counted as lost.
    """
    followers: dict[Path, Iterator[tuple[bytes, _Place | None]]] = {}
    while not context.stop.is_set():
        paths = sorted({*matching(patterns), *_literal(patterns)})
        followers = {path: followers.get(path) or _follow(path, context) for path in paths}
        idle = True
        for path, follower in followers.items():
            lines, place = next(follower, (b"", None))  # One block a turn: a busy file does not starve the others.
            if lines and place is not None:
                idle = False
                state = _state(path, context)
                if not place.name:
                    place = replace(place, name=context.new_name(), shifts=shifts(context))
                    _save(state, place)
                yield Block(path, lines, place.name, place.shifts)
                _save(state, replace(place, name=""))
        if idle:
            yield Block()
            context.wait(_IDLE_S)


def shifts(context: Context) -> Shifts:
    """Return the distances of the other clocks from node time, as they are now."""
    return context.clock.from_realtime(0), context.clock.from_boottime(0)


def matching(patterns: str) -> list[Path]:
    """Return the files that comma-separated patterns name now, sorted."""
    each = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    return sorted({Path(found) for pattern in each for found in glob.glob(pattern)})


def _literal(patterns: str) -> list[Path]:
    """Return the patterns without wildcards: such a file is waited for, a pod's log that is gone is not."""
    return [Path(each.strip()) for each in patterns.split(",") if each.strip() and not glob.has_magic(each)]


def _state(path: Path, context: Context) -> Path:
    return Path(context.settings.state_dir) / f"tail-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"


def _follow(path: Path, context: Context) -> Iterator[tuple[bytes, _Place | None]]:
    """Yield blocks of whole lines of `path` with the place behind them, and empty blocks while there is nothing new."""
    place = _load(_state(path, context))
    done: set[int] = set()
    while not context.stop.is_set():
        current = _open_next(path, place, done, context)
        if current is None:
            yield b"", None
            continue
        with current:
            if place is not None and place.name and _is(current, place):
                current.seek(place.begun)
                yield current.read(place.offset - place.begun), place
            place = None
            yield from _lines(current, path, context)
            done.add(os.fstat(current.fileno()).st_ino)


def _open_next(path: Path, place: _Place | None, done: set[int], context: Context) -> BinaryIO | None:
    """Open the oldest file that is not done, at the place where reading stopped; None where there is none."""
    family = _family(path)
    if place is not None:
        for file in family:
            opened = _try(file)
            if opened is not None and _is(opened, place):
                opened.seek(place.offset)
                return opened
            if opened is not None:
                if _modified(file) <= place.modified_ns:
                    done.add(_inode(file))  # Read to its end before the one at which reading stopped.
                opened.close()
        context.lost("rotated away before it was read", 1, lower_bound=True)
    fresh = [file for file in family if _inode(file) not in done]
    if place is None and not done:
        fresh = [path]  # A first start reads the file as it is, not its predecessors.
    return next((opened for opened in map(_try, fresh) if opened is not None), None)


def _family(path: Path) -> list[Path]:
    """Return the file and its renamed predecessors (`events-<time>.log`, `events.log.1`), oldest first."""
    renamed = {*path.parent.glob(f"{path.stem}-*{path.suffix}"), *path.parent.glob(f"{path.name}.*")}
    kept = [each for each in renamed if each.suffix not in (".gz", ".zst", ".tmp")]
    return [*sorted(kept, key=_modified), path]


def _modified(file: Path) -> int:
    with contextlib.suppress(OSError):
        return file.stat().st_mtime_ns
    return 0


def _inode(file: Path) -> int:
    with contextlib.suppress(OSError):
        return file.stat().st_ino
    return 0


def _try(file: Path) -> BinaryIO | None:
    with contextlib.suppress(OSError):
        return file.open("rb")
    return None


def _lines(file: BinaryIO, path: Path, context: Context) -> Iterator[tuple[bytes, _Place]]:
    """Yield whole lines and the place behind them, until another file stands at `path` and this one is at its end."""
    rest = b""
    while not context.stop.is_set():
        told = file.read(_BLOCK_BYTES)
        rest += told
        cut = rest.rfind(b"\n") + 1
        if cut:
            block, rest = rest[:cut], rest[cut:]
            yield block, _place(file, file.tell() - len(rest), len(block))
        elif len(rest) > _LINE_BYTES:
            context.lost("line too long", 1)
            rest = b""
        if told:
            continue
        if _inode(path) not in (0, os.fstat(file.fileno()).st_ino):
            # Renamed. A writer may still have it open for a moment; what it adds then is rare, and looked for once more.
            context.wait(_IDLE_S)
            rest += file.read()
            if rest:
                yield rest.rstrip(b"\n") + b"\n", _place(file, file.tell(), len(rest))
            return
        if os.fstat(file.fileno()).st_size < file.tell():
            context.lost("truncated before it was read", 1, lower_bound=True)
            file.seek(0)
            rest = b""
        yield b"", _place(file, file.tell() - len(rest))


def _place(file: BinaryIO, offset: int, length: int = 0) -> _Place:
    """Return the place at `offset`, behind a block of `length` bytes."""
    head = os.pread(file.fileno(), _FINGERPRINT_BYTES, 0)
    told = os.fstat(file.fileno())
    digest = hashlib.sha256(head).hexdigest()
    return _Place(told.st_ino, offset, told.st_mtime_ns, digest, len(head), offset - length)


def _is(file: BinaryIO, place: _Place) -> bool:
    """Say whether an open file is the one of `place`: an inode alone may have been given to a new file."""
    head = os.pread(file.fileno(), place.head_bytes, 0)
    return os.fstat(file.fileno()).st_ino == place.inode and hashlib.sha256(head).hexdigest() == place.head


def _load(state: Path) -> _Place | None:
    try:
        told = json.loads(state.read_text(encoding="utf-8"))
        return _Place(**{**told, "shifts": tuple(told.get("shifts", (0, 0)))})
    except (OSError, ValueError, TypeError):
        return None


def _save(state: Path, place: _Place) -> None:
    new = state.with_suffix(".new")
    new.write_text(json.dumps(asdict(place)), encoding="utf-8")
    new.replace(state)
