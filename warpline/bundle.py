"""Incident bundles: a sample trace in one portable file, checksummed, that opens anywhere.

A bundle is a zip archive whose members are stored as they are (Parquet is compressed already): the manifest first, a
checksum list, one Parquet file per table, and the alert rules with their thresholds as they were in force. Names can be
replaced (`pseudonyms.py`).
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from warpline import recording, sample, schema
from warpline.client import Client
from warpline.errors import SourceError, plain
from warpline.pseudonyms import Pseudonyms
from warpline.sample import Manifest, Writer

SUFFIX = ".warpline"
CHECKSUMS, RULES = "checksums.json", "rules.json"
_LATELY_NS = 86_400_000_000_000
"""Time before an incident of which all processes are kept; of older ones those that it speaks of."""
_DAMAGE = (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
"""What zipfile raises at bytes that were changed: a flag that says "encrypted" is a RuntimeError."""
_PIECE = 1 << 20
_KNOWN = frozenset(table.name for table in schema.TABLES)
_NO_SUCH_TABLE = "this Warpline has no such table any more"

Progress = Callable[[float], None]


@dataclass
class Report:
    """What a bundle holds, and what of it is damaged: each lost table, or `rules.json`, with the reason."""

    manifest: Manifest
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def lost_rows(self) -> int:
        """Rows of the damaged tables."""
        return sum(self.manifest.rows.get(name, 0) for name in self.damaged)

    def losses(self) -> list[str]:
        """Return what is lost, a sentence each."""
        rows = self.manifest.rows
        return [
            f"table {name} is lost, {rows[name]:,} rows: {reason}"
            if name in rows
            else f"the alert rules that were in force are lost: {reason}"
            for name, reason in self.damaged.items()
        ]


def record(
    client: Client,
    directory: Path,
    window: tuple[int, int],
    about: str,
    pseudonyms: bool,
    progress: Progress = lambda share: None,
) -> Manifest:
    """Write what the correlator stored in `window` (node time, ns), with the identities it needs, as a sample trace.

    Rows are written as they come. Raises StoreError where the correlator does not answer, SourceError where the window is
    empty.
    """
    names = Pseudonyms() if pseudonyms else None
    writer, written = Writer(directory), []
    found = recording.stored(client, *window, schema.HOLDING, progress)
    for table, parts in recording.concerned(found, window[0] - _LATELY_NS):
        writer.add(table, parts if names is None else (names.renamed(table, rows) for rows in parts))
        written += [table] if table.name in writer.rows else []
    if not writer.rows.keys() - schema.HOLDING:
        raise SourceError(
            "incident: nothing was stored in that window; look at the Overview page for when something was"
        )
    if names is not None:
        names.tell(directory, written)
    return writer.finish(about)


def pack(directory: Path, file: Path, rules: str = "", progress: Progress = lambda share: None) -> None:
    """Write the sample trace in `directory` as one file; `rules` is the JSON text of the alert rules in force."""
    found = sample.load(directory)
    members = ["manifest.json", *(f"{name}.parquet" for name in found.rows)]
    sums = {name: _checksum(directory / name) for name in members}
    if rules:
        sums[RULES] = hashlib.sha256(rules.encode()).hexdigest()
    part = file.with_name(file.name + ".part")
    total, done = sum((directory / name).stat().st_size for name in members), 0
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        archive.write(directory / "manifest.json", "manifest.json")
        archive.writestr(CHECKSUMS, json.dumps(sums, indent=1))
        if rules:
            archive.writestr(RULES, rules)
        for name in members[1:]:
            archive.write(directory / name, name)
            done += (directory / name).stat().st_size
            progress(done / total)
    part.rename(file)


def unpack(file: Path, directory: Path, progress: Progress = lambda share: None) -> Report:
    """Write a bundle's sample trace to `directory` and say what it holds.

    A table that is damaged is left out and named. Raises SourceError where the file is no bundle, is cut short, or is of a
    newer form than this Warpline reads.
    """
    with _opened(file) as archive:
        sums = _checksums(file, archive)
        directory.mkdir(parents=True, exist_ok=True)
        manifest = _member(archive, "manifest.json", directory, sums)
        if manifest:
            raise SourceError(f"{file}: its manifest is damaged ({manifest}); record the incident again")
        report = Report(sample.load(directory))
        total, done = sum(i.file_size for i in archive.infolist()) or 1, 0
        for name in report.manifest.rows:
            fault = _member(archive, f"{name}.parquet", directory, sums) if name in _KNOWN else _NO_SUCH_TABLE
            if fault:
                report.damaged[name] = fault
                (directory / f"{name}.parquet").unlink(missing_ok=True)
            else:
                done += archive.getinfo(f"{name}.parquet").file_size
                progress(done / total)
        if RULES in sums and (fault := _member(archive, RULES, directory, sums)):
            report.damaged[RULES] = fault
    _leave_out(directory, report)
    return report


def _leave_out(directory: Path, report: Report) -> None:
    """Make the manifest on disk name only what is whole, so that the rest can be replayed."""
    if report.damaged:
        path = directory / "manifest.json"
        said = json.loads(path.read_bytes())
        said["rows"] = {name: rows for name, rows in said["rows"].items() if name not in report.damaged}
        path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _DAMAGE as error:
        raise SourceError(f"{file}: {plain(error)}; give a whole file that `warpline incident record` wrote") from None


def _checksums(file: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    try:
        found = json.loads(archive.read(CHECKSUMS))
        return {str(name): str(value) for name, value in found.items()}
    except (*_DAMAGE, AttributeError) as error:
        raise SourceError(f"{file}: {error}; it is a zip archive, but no incident bundle") from None


def _member(archive: zipfile.ZipFile, name: str, directory: Path, sums: dict[str, str]) -> str:
    """Write one member to `directory`; return what is wrong with it, or an empty text."""
    digest = hashlib.sha256()
    try:
        with archive.open(name) as source, (directory / name).open("wb") as target:
            for piece in _pieces(source):
                digest.update(piece)
                target.write(piece)
    except _DAMAGE as error:
        return str(error) or type(error).__name__
    return "" if digest.hexdigest() == sums.get(name) else "its checksum differs"


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in _pieces(file):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(_PIECE), b"")
