"""The ring files that processes of this node write into one directory: found, opened, read and removed behind their writer.

What the readers of such rings do alike, whatever their records say.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from collectors.identity import proc
from collectors.rings.ring_file import NotARing
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5


class RingFile(Protocol):
    """One ring that is open."""

    @property
    def boot_id(self) -> str:
        """Linux boot that it was written in."""

    @property
    def writer(self) -> tuple[int, int]:
        """What the writer says of itself: its process id, and its start in ticks since boot."""

    @property
    def at_least(self) -> int:
        """Records that it was given, at the least."""

    def owner(self) -> int | None:
        """Return the writer's process id in our PID namespace, 0 where it is not visible in it, None once it has ended."""

    def close(self, remove: bool = False) -> None:
        """Let go of the file, and with `remove` delete it."""


@dataclass(frozen=True, slots=True)
class Writer:
    """The process behind a ring: its uid, and what turns its CLOCK_MONOTONIC into node time."""

    process_uid: str
    offset_ns: int


R = TypeVar("R", bound=RingFile)
W = TypeVar("W")


def why_not(settings: Settings) -> str | None:
    """Return why rings cannot be read here, or None."""
    directory = Path(settings.ring_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"ring_dir {directory}: cannot be made ({error.strerror}); mount it, shared with the engine's pods"
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return f"ring_dir {directory}: may not be read and written; run as root, or change its mode"
    return None


def follow(
    context: Context,
    pattern: str,
    poll_s: float,
    open_ring: Callable[[Path], R],
    watch: Callable[[R, Writer], W],
    read: Callable[[W, bool, bool], Iterator[Batch]],
) -> Iterator[Batch]:
    """Yield what `read(watched, ended, stopping)` says of each ring each `poll_s`, until told to stop and once more then.

    `open_ring` raises NotARing or OSError; `watch` makes of a new ring what `read` is given. A ring goes when its writer
    has ended and its last records were read.
    """
    rings: dict[Path, tuple[R, W] | None] = {}
    looked_s = 0.0
    while True:
        stopping = context.wait(poll_s)
        if stopping or time.monotonic() - looked_s > _LOOK_EVERY_S:
            looked_s = time.monotonic()
            _look(context, pattern, open_ring, watch, rings)
        for path, found in list(rings.items()):
            if found is not None:
                ring, watched = found
                ended = ring.owner() is None
                yield from read(watched, ended, stopping)
                if ended:
                    ring.close(remove=True)
                    del rings[path]
        if stopping:
            return


def _look(
    context: Context,
    pattern: str,
    open_ring: Callable[[Path], R],
    watch: Callable[[R, Writer], W],
    rings: dict[Path, tuple[R, W] | None],
) -> None:
    """Open rings that are new; a file that is no ring is remembered as such, and counted once."""
    for path in sorted(Path(context.settings.ring_dir).glob(pattern)):
        if path in rings:
            continue
        try:
            ring = open_ring(path)
        except NotARing as error:
            if _age_s(path) > _LOOK_EVERY_S:  # Else it may be in the making.
                log.warning("%s", error)
                context.lost("not a ring file", 1)
                rings[path] = None
        except OSError:
            continue
        else:
            writer = _writer(context, ring)
            rings[path] = (ring, watch(ring, writer)) if writer else None
    for path in [each for each, found in rings.items() if found is None and not each.exists()]:
        del rings[path]


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # Gone meanwhile.
        return 0.0


def _writer(context: Context, ring: RingFile) -> Writer | None:
    """Return whose ring it is; None where it is of an earlier boot, counted and removed."""
    if ring.boot_id != context.clock.boot_id:
        context.lost("ring of an earlier boot", ring.at_least, lower_bound=True)
        ring.close(remove=True)
        return None
    pid = ring.owner()
    found = proc.stat(pid) if pid else None
    if found is None:  # It has ended, or is hidden from us: only its own word is left.
        told_pid, ticks = ring.writer
        return Writer(proc.process_uid(context.node, ticks * proc.TICK_NS, told_pid), context.clock.anchor_ns)
    offset_ns = context.clock.anchor_ns - (proc.monotonic_offset_ns(found.pid) or 0)
    return Writer(proc.process_uid(context.node, found.start_since_boot_ns, found.pid), offset_ns)
