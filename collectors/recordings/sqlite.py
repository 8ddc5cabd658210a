"""Reading tables of a SQLite export in column batches, whatever columns that version of the export has."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from collectors.recordings import files
from warpline.errors import SourceError

MAGIC = b"SQLite format 3\0"
_ROWS = 32_768


class Database:
    """A SQLite file, opened for reading alone. Errors of SQLite become SourceError with the file's name."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        with self.guarded():
            self._connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)
            # A name may hold any bytes: what is not UTF-8 is replaced, never an error.
            self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            found = self._connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
            self.tables = {row[0] for row in found}

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Raise SourceError, with a sentence, for what SQLite finds wrong inside."""
        try:
            yield
        except sqlite3.Error as error:
            raise SourceError(f"{self._name}: SQLite says {str(error)!r}; export it again") from None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def count(self, table: str) -> int:
        """Return the number of rows of a table, 0 where there is none."""
        if table not in self.tables:
            return 0
        with self.guarded():
            return int(self._connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0])  # noqa: S608  # a constant

    def columns(self, table: str, *wanted: str) -> Iterator[list[list[Any]]]:
        """Yield batches of rows as one list a column, in the order of `wanted`; a column that is missing is all None."""
        if table not in self.tables:
            return
        with self.guarded():
            there = {row[1] for row in self._connection.execute(f'PRAGMA table_info("{table}")')}
            if not there.intersection(wanted):
                return
            selected = ", ".join(f'"{each}"' if each in there else "NULL" for each in wanted)
            cursor = self._connection.execute(f'SELECT {selected} FROM "{table}"')  # noqa: S608  # declared names alone
            while rows := cursor.fetchmany(_ROWS):
                yield [list(each) for each in zip(*rows, strict=True)]

    def setting(self, table: str, name: str) -> str | None:
        """Return the `value` of one `name`, reading no other: these tables hold the environment too."""
        if table not in self.tables:
            return None
        with self.guarded():
            found = self._connection.execute(f'SELECT value FROM "{table}" WHERE name = ?', (name,)).fetchone()  # noqa: S608
        return str(found[0]) if found else None

    def mapping(self, table: str, key: str, value: str) -> dict[Any, Any]:
        """Return one column by another."""
        found: dict[Any, Any] = {}
        for keys, values in self.columns(table, key, value):
            found.update(zip(keys, values, strict=True))
        return found


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Database]:
    """Open a SQLite file that may be gzip-compressed; raise SourceError where it is none."""
    if files.head(path, len(MAGIC)) != MAGIC:
        raise SourceError(f"{path.name}: is not a SQLite file; run `nsys export --type sqlite` on the report")
    with contextlib.ExitStack() as stack:
        with files.open_file(path) as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="warpline-import-"))) / "export.sqlite"
        if packed:
            with files.parts(path) as parts, where.open("wb") as into:
                for part in parts:
                    while piece := part.read(1 << 20):
                        into.write(piece)
        database = Database(where if packed else path, path.name)
        stack.callback(database.close)
        yield database
