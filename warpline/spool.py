"""Batches on disk between the one who acknowledged them and the one who is to take them.

The collector's export queue and the correlator's log are both this. `append` returns once the batches are on disk: writers
that come together share one fdatasync. Records lie in numbered segments; a segment is deleted when all of it is
released. The position of the last release is a hint: where it is missing or stale, records are handed out again, and
whoever takes them knows them by their batch ids.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from warpline import record
from warpline.batch import Batch
from warpline.errors import SchemaError, StoreError

log = logging.getLogger(__name__)

_SEGMENT_BYTES = 32 << 20
_GROUP_BYTES = 16 << 20
"""Records that one step of `read` hands out, at most, by their size on disk."""

DAMAGED = "spool record damaged"
TORN = "spool cut short"
UNKNOWN = "spool record does not fit the schema"


class Full(StoreError):
    """The spool's bound, or the disk's reserve, is reached: try later."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place between two records: segment number and offset in it."""

    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Kept:
    """A batch that is on disk and in memory, where its record ends, and the memory that it takes."""

    batch: Batch
    end: int
    bytes: int


class Spool:
    """Records of batches in a directory of its own, which one process at a time may use.

    `limit_bytes` bounds what lies on disk unreleased, `reserve_bytes` is free disk space that it leaves alone, and
    `keep_bytes` bounds the appended batches that are also kept in memory, so that a reader that keeps up reads no file.
    `losses` counts damaged records by reason.
    """

    def __init__(self, directory: Path | str, limit_bytes: int, reserve_bytes: int = 0, keep_bytes: int = 0) -> None:
        """Open the spool, recovering what a crash left; raise StoreError where the directory cannot be used."""
        self.directory = Path(directory)
        self.limit_bytes, self.reserve_bytes, self.keep_bytes = limit_bytes, reserve_bytes, keep_bytes
        self.losses: Counter[str] = Counter()
        self._write = threading.Lock()
        self._sync = threading.Lock()
        self._grown = threading.Condition()
        self._kept: OrderedDict[Position, _Kept] = OrderedDict()
        self._failed: set[int] = set()
        self._kept_bytes = 0
        self._file = -1
        self._end = self._synced = Position(0, 0)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.directory)
            self._sizes = {int(p.stem): p.stat().st_size for p in sorted(self.directory.glob("*.spool"))}
            self._released = self._load_position()
            self._number = self._recover()
            self._open_segment(max(self._sizes, default=0) + 1)
        except OSError as error:
            raise StoreError(f"spool {self.directory}: {error}; give a directory that can be written") from None

    # Writing

    def append(self, batches: Sequence[Batch]) -> None:
        """Write the batches and return once they are on disk, all of them or, raising, none acknowledged.

        Raises Full beyond the bounds, or where the disk is; StoreError where the disk fails.
        """
        packed = [(batch, *record.pack(batch)) for batch in batches]
        size = sum(record.HEADER.size + len(names) + body.size for _, names, body in packed)
        with self._write:
            self._check_room(size)
            if self._end.offset > _SEGMENT_BYTES:
                self._roll()
            self._write_records(packed)
            mine = self._end
        self._sync_to(mine)
        with self._grown:
            self._grown.notify_all()

    def _check_room(self, size: int) -> None:
        if self.bytes + size > self.limit_bytes:
            raise Full(f"spool {self.directory}: {self.bytes} bytes wait, the bound is {self.limit_bytes}; retry later")
        if self.reserve_bytes and free_bytes(self.directory) - size < self.reserve_bytes:
            raise Full(f"spool {self.directory}: less than {self.reserve_bytes} bytes are free on disk; retry later")

    def _write_records(self, packed: list[tuple[Batch, bytes, pa.Buffer]]) -> None:
        start = self._end
        pieces: list[bytes | pa.Buffer] = []
        places: list[Position] = []
        offset = start.offset
        for each, (_, names, body) in enumerate(packed):
            pieces += [record.header(self._number + each, names, body), names, body]
            places.append(Position(start.segment, offset))
            offset += record.HEADER.size + len(names) + body.size
        try:
            _write_all(self._file, pieces)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, start.offset)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Full(f"spool {self.directory}: {error}; retry later") from None
            raise StoreError(f"spool {self.directory}: {error}") from None
        self._number += len(packed)
        self._end = Position(start.segment, offset)
        self._sizes[start.segment] = offset
        for place, end, (batch, _, _) in zip(places, [*(p.offset for p in places[1:]), offset], packed, strict=True):
            size = batch.rows.get_total_buffer_size()  # Not `nbytes`, which takes 50 µs for the columns of a span.
            if self._kept_bytes + size <= self.keep_bytes:
                self._kept[place] = _Kept(batch, end, size)
                self._kept_bytes += size

    def _sync_to(self, mine: Position) -> None:
        """Wait until all up to `mine` is on disk; whoever holds the lock syncs for all that wrote before it."""
        with self._sync:
            if mine.segment not in self._failed and self._synced < mine:
                with self._write:
                    file, end = self._file, self._end
                try:
                    os.fdatasync(file)
                    self._synced = max(self._synced, end)
                except OSError as error:
                    log.error("spool %s: %s", self.directory, error)
                    with self._write:
                        self._abandon_segment()
            if mine.segment in self._failed:
                raise StoreError(f"spool {self.directory}: the disk fails; the batch is not acknowledged")

    def _abandon_segment(self) -> None:
        """Go on in a new segment: Linux drops the pages that it could not write, so the old one's tail is not sure."""
        self._failed.add(self._end.segment)
        self._open_segment(self._end.segment + 1)

    def _roll(self) -> None:
        try:
            os.fdatasync(self._file)
        except OSError as error:
            log.error("spool %s: %s", self.directory, error)
            self._failed.add(self._end.segment)
        self._open_segment(self._end.segment + 1)

    def _open_segment(self, number: int) -> None:
        if self._file >= 0:
            os.close(self._file)
        path = self._path(number)
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        sync_directory(self.directory)
        self._sizes[number] = 0
        self._end = self._synced = Position(number, 0)

    # Reading

    def read(self, start: Position | None = None) -> Iterator[tuple[Position, list[Batch]]]:
        """Yield batches in the order appended, in groups, each with the position after it, up to what is on disk now.

        It begins at `start`, else at the last release. Damaged records are counted in `losses` and passed over.
        """
        at = max(start or self._released, self._released)
        while True:
            with self._sync, self._write:
                end = self._synced
                segments = sorted(number for number in self._sizes if number >= at.segment)
            for number in segments:
                first = at.offset if number == at.segment else 0
                last = end.offset if number == end.segment else self._sizes.get(number, 0)
                for position, batches in self._read_segment(number, first, last):
                    at = position
                    yield position, batches
            if end == self._synced:
                return
            at = max(at, end)

    def wait(self, position: Position | None, seconds: float) -> bool:
        """Wait up to `seconds` for something beyond `position` (None: the last release); return whether there is."""
        with self._grown:
            return self._grown.wait_for(lambda: self._beyond(position or self._released), seconds)

    def _beyond(self, position: Position) -> bool:
        return any(
            size > (position.offset if number == position.segment else 0)
            for number, size in list(self._sizes.items())
            if number >= position.segment
        )

    def _read_segment(self, number: int, first: int, last: int) -> Iterator[tuple[Position, list[Batch]]]:
        batches, begun = [], first
        for at, batch in self._records(number, first, last):
            if batch is not None:
                batches.append(batch)
            if at - begun >= _GROUP_BYTES:
                yield Position(number, at), batches
                batches, begun = [], at
        if last > begun:
            yield Position(number, last), batches

    def _records(self, number: int, first: int, last: int) -> Iterator[tuple[int, Batch | None]]:
        """Yield each record's end with its batch, from memory as far as that goes, then from the file."""
        at = first
        while (kept := self._take(Position(number, at), last)) is not None:
            at = kept.end
            yield at, kept.batch
        if at >= last:
            return
        view, base = _read_bytes(self._path(number), at, last), at
        expected: int | None = None
        for found in record.scan(view, 0):
            if expected is None and base + found.start > at:
                self._lose(DAMAGED, 1, number, at)
            elif expected is not None and found.number > expected:
                self._lose(DAMAGED, found.number - expected, number, at)
            at, expected = base + found.end, found.number + 1
            kept = self._take(Position(number, base + found.start), last)
            yield at, kept.batch if kept else self._unpack(view[found.start + record.HEADER.size : found.end])
        if at < last:
            self._lose(DAMAGED, 1, number, at)

    def _take(self, place: Position, last: int) -> _Kept | None:
        with self._write:
            kept = self._kept.get(place)
            if kept is None or kept.end > last:
                return None
            del self._kept[place]
            self._kept_bytes -= kept.bytes
            return kept

    def _unpack(self, payload: memoryview) -> Batch | None:
        try:
            return record.unpack(payload)
        except SchemaError as error:
            log.warning("%s", error)
            self.losses[UNKNOWN] += 1
            return None

    def _lose(self, reason: str, count: int, segment: int, offset: int) -> None:
        self.losses[reason] += count
        log.warning("spool %s: %d record(s) lost after byte %d: %s", self._path(segment), count, offset, reason)

    # Releasing

    def release(self, position: Position) -> None:
        """Say that all before `position` is safe elsewhere: whole segments before it are deleted."""
        with self._write:
            if position <= self._released:
                return
            self._released = position
            _replace(self.directory / "position", f"{position.segment} {position.offset}\n")
            for number in [n for n in self._sizes if self._is_done(n)]:
                self._path(number).unlink(missing_ok=True)
                del self._sizes[number]
            while self._kept and next(iter(self._kept)) < position:
                self._kept_bytes -= self._kept.popitem(last=False)[1].bytes

    def _is_done(self, number: int) -> bool:
        return number < self._released.segment or (
            number == self._released.segment < self._end.segment and self._released.offset >= self._sizes[number]
        )

    @property
    def bytes(self) -> int:
        """Bytes on disk that are not released."""
        done = self._released.offset if self._released.segment in self._sizes else 0
        return sum(self._sizes.values()) - done

    @property
    def released(self) -> Position:
        """The position of the last release."""
        return self._released

    def close(self) -> None:
        """Close the files; what was not released stays."""
        with self._write:
            if self._file >= 0:
                os.close(self._file)
                os.close(self._lock)
                self._file = -1

    # Recovery

    def _load_position(self) -> Position:
        first = Position(min(self._sizes, default=0), 0)
        try:
            segment, offset = map(int, (self.directory / "position").read_text(encoding="ascii").split())
        except (OSError, ValueError):
            return first
        if segment not in self._sizes or offset > self._sizes[segment] or offset < 0:
            return first
        return Position(segment, offset)

    def _recover(self) -> int:
        """Cut what a crash left unfinished off the last segment; return the number of the next record."""
        for segment in sorted(self._sizes, reverse=True):
            view = _read_bytes(self._path(segment), 0, self._sizes[segment])
            last = next(iter(deque(record.scan(view, 0), maxlen=1)), None)
            end = last.end if last else 0
            if end < self._sizes[segment]:
                self._lose(TORN, 1, segment, end)
                os.truncate(self._path(segment), end)
                self._sizes[segment] = end
            if last is not None:
                return last.number + 1
        return 0

    def _path(self, segment: int) -> Path:
        return self.directory / f"{segment:010d}.spool"


def free_bytes(path: Path) -> int:
    """Return the free bytes of the file system of `path` that an ordinary user may fill."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text, encoding="ascii")
    os.replace(fresh, path)


def _write_all(file: int, pieces: Sequence[bytes | pa.Buffer]) -> None:
    """Write all pieces; writev(2) takes 1,024 at once and may write less than asked."""
    views = [memoryview(piece) for piece in pieces]
    while views:
        written = os.writev(file, views[:1024])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


def _read_bytes(path: Path, first: int, last: int) -> memoryview:
    with open(path, "rb") as file:
        file.seek(first)
        return memoryview(file.read(last - first))


def _locked(directory: Path) -> int:
    handle = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StoreError(
            f"spool {directory}: another process uses it; stop that one or give another state_dir"
        ) from None
    return handle
