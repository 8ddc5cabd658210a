"""The flight recorder: the last minutes of fine rows, in a bounded ring on disk.

Sources yield more than the ordinary detail as `fine` batches. They stay on their node until a window of node time is asked
for; then the batches that overlap it go out by the export queue, each with the id that it got here, so that it is stored
once however often its window is asked for. The ring is of files, the oldest deleted first; what is in them outlives a
restart of the process, and is not synced: it is worth less than the ordinary rows' place in the disk's queue.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc

from warpline import record
from warpline.batch import Batch
from warpline.errors import SchemaError

log = logging.getLogger(__name__)

DISK_FAILED = "flight recorder's disk failed"
OVERRUN = "flight recorder's ring came round before it was sent"
DAMAGED = "flight recorder's record damaged"

_FILES = 64
"""The ring in files: what is deleted at once is this part of it."""


@dataclass
class _File:
    """One file of the ring: the node times that it holds, how many rows, and what was handed out of it."""

    path: Path
    size: int = 0
    rows: int = 0
    first_ns: int = 1 << 62
    last_ns: int = -(1 << 62)
    taken: set[str] = field(default_factory=set)

    def note(self, batch: Batch, size: int) -> None:
        """Take account of a batch that it holds."""
        first_ns, last_ns = span(batch)
        self.size, self.rows = self.size + size, self.rows + batch.rows.num_rows
        self.first_ns, self.last_ns = min(self.first_ns, first_ns), max(self.last_ns, last_ns)


class Recorder:
    """A ring of batches under `directory` that takes `limit_bytes` of disk at most. For one thread."""

    def __init__(self, directory: Path, limit_bytes: int, now_ns: int) -> None:
        """Take up what an earlier life of this process left; `now_ns` is node time, where a fresh recording begins."""
        self.directory, self.limit_bytes = directory, limit_bytes
        self.losses: Counter[str] = Counter()
        self._files: deque[_File] = deque()
        self._handle = -1
        self._number = 0
        self._began_ns = now_ns
        self.bytes = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for path in sorted(directory.glob("*.ring")):
                self._take_up(path)
        except OSError as error:
            self._fail(error, 0)

    @property
    def reach_ns(self) -> int:
        """The node time since which everything is here."""
        return min((each.first_ns for each in self._files), default=self._began_ns)

    def put(self, batch: Batch) -> None:
        """Keep a batch that has its id; never raises for what the disk does: the rows are counted as lost."""
        names, body = record.pack(batch)
        header = record.header(self._number, names, body)
        size = len(header) + len(names) + body.size
        try:
            if self._handle < 0 or self._files[-1].size + size > max(self.limit_bytes // _FILES, 1 << 16):
                self._open()
            os.writev(self._handle, [header, names, body])
        except OSError as error:
            self._fail(error, batch.rows.num_rows)
            return
        self._number += 1
        self._files[-1].note(batch, size)
        self.bytes += size
        while self.bytes > self.limit_bytes and len(self._files) > 1:
            self._drop_oldest()

    def take(self, since_ns: int, until_ns: int) -> Iterator[Batch]:
        """Yield the batches with rows in [since_ns, until_ns) that were not handed out before, oldest first.

        Files that the ring dropped meanwhile are counted in `losses`.
        """
        for file in [each for each in self._files if each.last_ns >= since_ns and each.first_ns < until_ns]:
            try:
                view = memoryview(file.path.read_bytes())
            except OSError:
                self.losses[OVERRUN] += file.rows
                continue
            for batch in _batches(view, self.losses):
                first_ns, last_ns = span(batch)
                if last_ns >= since_ns and first_ns < until_ns and batch.batch_id not in file.taken:
                    file.taken.add(batch.batch_id)
                    yield batch

    def close(self) -> None:
        """Close the file; the ring stays."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        self.close()
        path = self.directory / f"{self._number:016d}.ring"
        self._handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._files.append(_File(path))

    def _take_up(self, path: Path) -> None:
        """Read which times a file holds; one that holds nothing whole is deleted."""
        file = _File(path)
        view = memoryview(path.read_bytes())
        for found in record.scan(view, 0):
            self._number = max(self._number, found.number + 1)
        for batch in _batches(view, self.losses):
            file.note(batch, 0)
        file.size = len(view)
        if file.rows:
            self._files.append(file)
            self.bytes += file.size
        else:
            path.unlink(missing_ok=True)

    def _drop_oldest(self) -> None:
        oldest = self._files.popleft()
        self.bytes -= oldest.size
        oldest.path.unlink(missing_ok=True)

    def _fail(self, error: OSError, rows: int) -> None:
        if not self.losses[DISK_FAILED]:
            log.warning("flight recorder %s: %s; fine rows are not kept", self.directory, error)
        self.losses[DISK_FAILED] += max(rows, 1)
        self.close()


def span(batch: Batch) -> tuple[int, int]:
    """Return the first and the last node time (ns) at which a batch's rows began."""
    found = pc.min_max(batch.rows[batch.table.time]).as_py()
    return int(found["min"]), int(found["max"])


def covered(batch: Batch, windows: Sequence[tuple[int, int]]) -> bool:
    """Say whether a batch has rows in one of the windows."""
    if not windows:
        return False
    first_ns, last_ns = span(batch)
    return any(last_ns >= since and first_ns < until for since, until in windows)


def _batches(view: memoryview, losses: Counter[str]) -> Iterator[Batch]:
    """Yield the whole records of a file; what was damaged between them is counted."""
    expected: int | None = None
    for found in record.scan(view, 0):
        if expected is not None and found.number > expected:
            losses[DAMAGED] += found.number - expected
        expected = found.number + 1
        try:
            yield record.unpack(view[found.start + record.HEADER.size : found.end])
        except SchemaError:
            losses[DAMAGED] += 1
