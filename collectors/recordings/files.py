"""Recordings as files: plain, gzip, tar; their identity; and how far one has been read."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from warpline.errors import SourceError

_HASH_PIECE = 1 << 20
_RANK = re.compile(r"(?:rank|worker)[-_.]?(\d{1,6})(?!\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """One stream of a recording: a file, or one member of a directory or tar. `share` says how much of it is read (0-1)."""

    name: str
    stream: IO[bytes]
    raw: IO[bytes]
    raw_bytes: int

    @property
    def share(self) -> float:
        """Share of the file on disk that has been consumed."""
        return min(1.0, self.raw.tell() / self.raw_bytes) if self.raw_bytes else 1.0

    def read(self, size: int) -> bytes:
        """Return the next bytes, decompressed; raise SourceError where the compression is damaged or ends early."""
        try:
            return self.stream.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, OSError) as error:
            raise SourceError(f"{self.name}: {_in_words(error)}; get the whole file and import it again") from None


def _in_words(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the compressed file ends too early"
    return f"cannot be decompressed ({str(error) or type(error).__name__})"


def uid_of(path: Path) -> str:
    """Return the recording's uid: the first 16 hex digits of the file's SHA-256, or of those of a directory's files."""
    if path.is_dir():
        return hashlib.sha256("".join(uid_of(each) for each in members(path)).encode()).hexdigest()[:16]
    digest = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(_HASH_PIECE):
            digest.update(piece)
    return digest.hexdigest()[:16]


def members(path: Path) -> list[Path]:
    """Return the files of a recording kept as a directory, one a rank, sorted by name."""
    return sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))


def open_file(path: Path) -> IO[bytes]:
    """Open a file for reading; raise SourceError, with the reason in words, where that fails."""
    try:
        return path.open("rb")
    except OSError as error:
        raise SourceError(f"{path}: {os.strerror(error.errno or 0).lower()}; give a file that can be read") from None


def head(path: Path, size: int = 1 << 16) -> bytes:
    """Return the first `size` bytes, decompressed, of a file or of a tar's first regular member; empty if unreadable."""
    try:
        with parts(path) as found:
            return next((part.read(size) for part in found), b"")
    except SourceError:
        return b""


@contextmanager
def parts(path: Path) -> Iterator[Iterator[Part]]:
    """Open `path` and give its parts one after the other; each is read before the next is taken."""
    if path.is_dir():
        yield (part for each in members(path) for part in _parts_of(each))
    else:
        yield _parts_of(path)


def _parts_of(path: Path) -> Iterator[Part]:
    with open_file(path) as raw:
        size = os.fstat(raw.fileno()).st_size
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        if not _is_tar(stream):
            yield Part(path.name, stream, raw, size)
            return
        raw.seek(0)
        try:
            with tarfile.open(fileobj=raw, mode="r|gz" if packed else "r|") as archive:
                for member in archive:
                    inside = archive.extractfile(member) if member.isfile() else None
                    if inside is not None:
                        unpacked = gzip.GzipFile(fileobj=inside) if member.name.endswith(".gz") else inside
                        yield Part(Path(member.name).name, unpacked, raw, size)  # type: ignore[arg-type]
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError(f"{path.name}: {_in_words(error)}; get the whole file and import it again") from None


def _is_tar(stream: IO[bytes]) -> bool:
    try:
        return stream.read(265)[257:262] == b"ustar"
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False  # Whatever it is, reading it will say that it is damaged.
    finally:
        stream.seek(0)


def rank_in(name: str) -> int | None:
    """Return the rank that a file's name tells (rank-3, worker7_step_12), or None."""
    found = _RANK.search(name)
    return int(found[1]) if found else None
