"""What was told of a cluster, on disk: so that a restart tells nothing twice, and goes on where the last run stood.

An SQLite file: of each object its resource version and what its rows are compared with, without secrets, never the object
itself; of each kind the resource version up to which it is told; and the rows of the last changes until they were handed on.
Those are written in one transaction with what they leave behind: a run that is killed between tells them again, named the
same, and so they are stored once.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from collectors.cluster.watch import Change
from warpline import record
from warpline.batch import Batch
from warpline.errors import SchemaError, SourceError
from warpline.source import Context

log = logging.getLogger(__name__)

_TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS object (path TEXT, uid TEXT, version TEXT, kept BLOB, PRIMARY KEY (path, uid)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS place (path TEXT PRIMARY KEY, version TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unsure (names BLOB, rows BLOB);
"""
_FORGET = ("DELETE FROM object", "DELETE FROM place", "DELETE FROM unsure")


class Memory:
    """The memory of one cluster. Raises SourceError where its disk fails."""

    def __init__(self, file: Path, context: Context) -> None:
        """Open the memory in `file`; one that cannot be read is begun anew, which is counted."""
        self._file, self._context = file, context
        try:
            self._opened = self._open()
        except sqlite3.DatabaseError as error:
            log.warning("source %s: %s: %s; begun anew", context.name, file, error)
            context.lost("memory of the cluster unreadable", 1, lower_bound=True)
            for each in file.parent.glob(f"{file.name}*"):
                each.unlink(missing_ok=True)
            self._opened = self._open()

    def _open(self) -> sqlite3.Connection:
        opened = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        opened.executescript(_TABLES)
        return opened

    def __enter__(self) -> Self:
        """Return the memory."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._opened.close()

    def recall(self, take: Callable[[str, str, Any], None]) -> None:
        """Give path, UID and what was kept of every object to `take`; forget all where it cannot take it."""
        try:
            for path, uid, kept in self._opened.execute("SELECT path, uid, kept FROM object WHERE kept IS NOT NULL"):
                take(path, uid, orjson.loads(kept))
        except (KeyError, TypeError, ValueError, AttributeError):  # Of a version that kept something else.
            self._context.lost("memory of the cluster unreadable", 1, lower_bound=True)
            self._write([(each, [()]) for each in _FORGET])

    def known(self, path: str) -> dict[str, str]:
        """Return the resource versions of the objects of one kind, by UID."""
        return dict(self._opened.execute("SELECT uid, version FROM object WHERE path = ?", [path]).fetchall())

    def place(self, path: str) -> str:
        """Return the resource version up to which a kind is told, or an empty text."""
        found = self._opened.execute("SELECT version FROM place WHERE path = ?", [path]).fetchone()
        return str(found[0]) if found else ""

    def unsure(self) -> Iterator[Batch]:
        """Yield the batches that the last run may not have handed on, named as then."""
        for names, rows in self._opened.execute("SELECT names, rows FROM unsure").fetchall():
            try:
                yield record.unpack(memoryview(names + rows))
            except SchemaError as error:
                log.warning("source %s: %s", self._context.name, error)
                self._context.lost("rows of another version", 1, lower_bound=True)
        self.told()

    def write(self, changes: Sequence[Change], kept: Mapping[tuple[str, str], Any], batches: Sequence[Batch]) -> None:
        """Keep what `changes` leave behind (`kept`, None for nothing) and, until `told`, the rows that they gave."""
        gone = {(each.path, each.uid): each.kind == "DELETED" for each in changes if each.uid}
        versions = [(each.path, each.uid, each.version) for each in changes if each.uid]
        places = {each.path: each.place for each in changes if each.place}
        texts = [(orjson.dumps(value), path, uid) for (path, uid), value in kept.items() if value is not None]
        packed = [record.pack(each) for each in batches]
        self._write(
            [
                ("INSERT OR REPLACE INTO object (path, uid, version) VALUES (?, ?, ?)", versions),
                ("UPDATE object SET kept = ? WHERE path = ? AND uid = ?", texts),
                ("DELETE FROM object WHERE path = ? AND uid = ?", [key for key, is_gone in gone.items() if is_gone]),
                ("INSERT OR REPLACE INTO place VALUES (?, ?)", list(places.items())),
                ("INSERT INTO unsure VALUES (?, ?)", [(names, rows.to_pybytes()) for names, rows in packed]),
            ]
        )

    def told(self) -> None:
        """Say that the rows last written were handed on."""
        self._write([("DELETE FROM unsure", [()])])

    def _write(self, statements: Sequence[tuple[str, Sequence[tuple[Any, ...]]]]) -> None:
        """Run each statement with each of its rows of parameters, all of them or none."""
        try:
            self._opened.execute("BEGIN")
            for statement, parameters in statements:
                self._opened.executemany(statement, parameters)
            self._opened.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._opened.execute("ROLLBACK")
            raise SourceError(f"{self._file}: {error}; see to the disk of state_dir") from None
