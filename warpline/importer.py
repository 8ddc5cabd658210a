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
import urllib3

from warpline import otlp, source
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.errors import SourceError, StoreError
from warpline.settings import Settings
from warpline.source import Context, RecordingSource

NAMING = 1
"""Part of each batch id: raised whenever readers cut their batches differently, so that old and new never mix."""

_REQUEST_BYTES = 4 << 20
_PATIENCE_S = 60.0
_AGAIN = (429, 502, 503, 504)


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
    with Door(settings, node) as door:
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
    found = json.loads(row["summary"])
    return Imported(path, name, row["recording_uid"], row["clock"], found, time.monotonic() - began)


class Door:
    """The correlator's OTLP/HTTP door: batches are gathered into requests, and each is acknowledged before the next."""

    def __init__(self, settings: Settings, node: str) -> None:
        """Open it; nothing is sent yet."""
        self.url = settings.collector_endpoint.rstrip("/") + "/v1/logs"
        self._resource = {"service.name": "warpline-import", "k8s.node.name": node}
        self._pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=60))
        self._waiting: list[Batch] = []
        self._bytes = 0
        self._uid = ""
        self._sequence = 0

    def __enter__(self) -> Door:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.flush()
        self._pool.clear()

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
        deadline = time.monotonic() + _PATIENCE_S
        wait = 0.2
        while True:
            try:
                answer = self._pool.request("POST", self.url, body=body, headers={"Content-Type": otlp.PROTOBUF})
            except urllib3.exceptions.HTTPError as error:
                reason = f"does not answer ({type(error).__name__})"
            else:
                if answer.status == 200:
                    return
                reason = f"answers {answer.status}"
                if answer.status not in _AGAIN:
                    raise StoreError(f"{self.url}: {reason}: {answer.data[:300]!r}; nothing of the recording is shown")
                wait = max(wait, min(_seconds(answer.headers.get("Retry-After")), 10.0))
            if time.monotonic() + wait > deadline or "NewConnection" in reason:
                raise StoreError(f"{self.url}: {reason}; start `warpline correlate`, or set collector_endpoint")
            time.sleep(wait)
            wait = min(2 * wait, 5.0)


def _seconds(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


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
