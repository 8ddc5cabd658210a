"""Recordings into the correlator: find the reader, read the file, send its batches through the OTLP door.

An import is one transaction as far as anybody sees: a reader yields nothing before it understood the whole file, and the
`recording` row, without which no view shows the others, goes last. Batches are named for the file's hash and their place
in it, so the same file, or the rest of an import that was cut off, is stored once.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from warpline import otlp, source
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.errors import SourceError, StoreError
from warpline.sender import Sender
from warpline.settings import Settings
from warpline.source import Context, RecordingSource

NAMING = 1
"""Part of each batch id: raised whenever readers cut their batches differently, so that old and new never mix."""

PATIENCE_S = 60.0
"""How long a correlator that does not answer, or says "later", is waited for."""

_REQUEST_BYTES = 4 << 20
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Imported:
    """One file that was imported: the name of its reader, its uid, what was found in it, and how long it took."""

    path: Path
    format: str
    recording_uid: str
    clock: str
    summary: dict[str, Any]
    seconds: float


def formats() -> list[str]:
    """Return the names of the sources that read recordings."""
    return [name for name in source.names() if source.load(name).SCOPE == "recording"]


def reader_of(path: Path, asked: str | None = None) -> tuple[str, RecordingSource]:
    """Return the reader that recognises `path`, or the one asked for; raise SourceError where there is none."""
    if asked is not None:
        return asked, source.load_recording(asked)
    if not path.exists():
        raise SourceError(f"{path}: no such file; give the path of a recording")
    for name in formats():
        reader = source.load_recording(name)
        if reader.recognises(path):
            return name, reader
    raise SourceError(f"{path}: is no recording that can be read; formats are {', '.join(formats())}")


def run(
    path: Path, settings: Settings, asked: str | None = None, progress: Callable[[float], None] | None = None
) -> Imported:
    """Import one file and return what was found; `progress` is told the share read (0-1).

    Raises SourceError where the file is not a whole recording, StoreError where the correlator does not take it: then
    nothing of it can be seen.
    """
    name, reader = reader_of(path, asked)
    began = time.monotonic()
    losses: list[Batch] = []
    node = settings.node or socket.gethostname()
    context = Context(name, node, settings, NodeClock(Path(settings.state_dir)), losses.append)
    if progress is not None:
        context.progress = progress
    door = Door(settings, node)
    last: Batch | None = None
    for batch in reader.read(path, context):
        if last is not None:
            door.send(last)
        last = batch
    if last is None or last.table.name != "recording":
        raise SourceError(f"{path}: its reader {name} told of no recording; this is a bug in the reader")
    row = last.rows.to_pylist()[0]
    door.name_for(row["recording_uid"])
    for loss in losses:
        door.send(loss)
    door.flush()
    door.send(last)
    door.flush()
    found = json.loads(row["summary"])
    return Imported(path, name, row["recording_uid"], row["clock"], found, time.monotonic() - began)


class Door:
    """The correlator's OTLP/HTTP door: batches are gathered into requests, and each is acknowledged before the next."""

    def __init__(self, settings: Settings, node: str, patience_s: float | None = None) -> None:
        """Prepare to send; raise SettingsError where a token or certificate cannot be read. Nothing is sent yet."""
        self._sender, self._patience_s = Sender(settings), PATIENCE_S if patience_s is None else patience_s
        self._resource = {"service.name": "warpline-import", "k8s.node.name": node}
        self._waiting: list[Batch] = []
        self._bytes = 0
        self._uid = ""
        self._sequence = 0

    def name_for(self, recording_uid: str) -> None:
        """Say which recording the batches belong to that do not say so themselves."""
        self._uid = recording_uid

    def send(self, batch: Batch) -> None:
        """Send a batch, with those before it when there is enough for a request."""
        for part in _fitting(batch):
            if not self._uid and "recording_uid" in part.table.by_name:
                self._uid = part.rows["recording_uid"][0].as_py()
            self._waiting.append(dataclasses.replace(part, batch_id=f"{self._uid}/{NAMING}/{self._sequence}"))
            self._sequence += 1
            self._bytes += part.rows.nbytes
            if self._bytes > _REQUEST_BYTES:
                self.flush()

    def flush(self) -> None:
        """Send what waits; return once the correlator has it on disk."""
        if self._waiting:
            self._post(otlp.encode(self._waiting, self._resource))
            self._waiting, self._bytes = [], 0

    def _post(self, body: bytes) -> None:
        deadline = time.monotonic() + self._patience_s
        wait = _FIRST_WAIT_S
        while True:
            answer = self._sender.send(body)
            if answer.taken and not answer.rejected:
                return
            if not answer.retry or time.monotonic() > deadline:
                raise StoreError(
                    f"{self._sender.url}: {answer.reason}; start `warpline correlate` or set collector_endpoint, "
                    "and import again: nothing of the recording is shown"
                )
            time.sleep(max(wait, min(answer.wait_s, _LONGEST_WAIT_S)))
            wait = min(2 * wait, _LONGEST_WAIT_S)


def _fitting(batch: Batch) -> Iterator[Batch]:
    """Cut a batch in halves until each is far below the largest body, compressed or not."""
    if batch.rows.nbytes <= otlp.MAX_BODY_BYTES or batch.rows.num_rows == 1:
        yield batch
        return
    middle = batch.rows.num_rows // 2
    for part in (batch.rows.slice(0, middle), batch.rows.slice(middle)):
        yield from _fitting(dataclasses.replace(batch, rows=_compact(part)))


def _compact(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Drop what a slice's dictionaries no longer name."""
    columns = [
        each.dictionary_decode().dictionary_encode().cast(each.type) if pa.types.is_dictionary(each.type) else each
        for each in rows.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)
