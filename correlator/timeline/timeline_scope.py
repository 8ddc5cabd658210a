"""What one timeline is about: a request, a recording, or everything between two moments."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from warpline.errors import StoreError

MARGIN_RATIO = 0.01
"""What is shown before and after a request, as a share of its time: its first and last bars do not touch the edge."""


class Views(Protocol):
    """What answers views by name: the store."""

    def view(self, name: str, parameters: Mapping[str, Any]) -> Any:
        """Return the view's rows, as a pyarrow Table or RecordBatchReader."""


class Absent(StoreError):
    """The request or recording asked for is not in the store."""


@dataclass(frozen=True)
class Scope:
    """The bounds of one timeline, in node time, and which rows belong to it; what is empty leaves that open."""

    from_ns: int
    to_ns: int
    recording: str | None = None
    processes: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """True while rows may still arrive for it: its end is less than a minute ago."""
        return self.recording is None and time.time_ns() - self.to_ns < 60_000_000_000

    def parameters(self, since_ns: int | None = None, until_ns: int | None = None) -> dict[str, Any]:
        """Return the parameters that every timeline view binds, for the whole scope or a window of it."""
        return {
            "since_ns": self.from_ns if since_ns is None else since_ns,
            "until_ns": self.to_ns if until_ns is None else until_ns,
            "recording": self.recording or "-",
            "processes": list(self.processes),
            "subjects": list(self.subjects),
        }


def rows(views: Views, name: str, parameters: Mapping[str, Any]) -> pa.Table:
    """Return all rows of view `name` as one table."""
    found = views.view(name, parameters)
    return found if isinstance(found, pa.Table) else found.read_all()


def batches(views: Views, name: str, parameters: Mapping[str, Any]) -> Iterable[pa.RecordBatch]:
    """Return the rows of view `name` as they come."""
    found = views.view(name, parameters)
    batches: Iterable[pa.RecordBatch] = found.to_batches() if isinstance(found, pa.Table) else found
    return batches


def find(views: Views, query: Mapping[str, str]) -> Scope:
    """Return the scope that an address asks for: `request=`, `recording=`, or `from_ns=` and `to_ns=`.

    Raises Absent where the store has no such request or recording, StoreError where the address asks for nothing.
    """
    if query.get("request"):
        return _of_request(views, query["request"])
    if query.get("recording"):
        return _of_recording(views, query["recording"])
    since, until = whole(query, "from_ns"), whole(query, "to_ns")
    if until <= since:
        raise StoreError(f"timeline: to_ns {until} is not after from_ns {since}; give a window that lasts")
    return Scope(since, until)


def whole(query: Mapping[str, str], key: str, default: int | None = None) -> int:
    """Return a whole number of an address; raise StoreError that names the key where it is missing or is none."""
    raw = query.get(key, "" if default is None else str(default))
    try:
        return int(raw)
    except ValueError:
        raise StoreError(f"timeline: {key} is {raw!r}; give a whole number") from None


def _of_request(views: Views, request: str) -> Scope:
    touched = rows(views, "timeline_scope", {"request": request})
    starts = touched["start_ns"].drop_null()
    if not len(starts):
        raise Absent(
            f"timeline: request {request!r} is not in the store; it may have aged out, or not have arrived yet"
        )
    ends = touched["end_ns"].drop_null()
    since = pc.min(starts).as_py()
    until = max(pc.max(ends).as_py() if len(ends) else time.time_ns(), since + 1000)
    margin = int((until - since) * MARGIN_RATIO) + 1
    subjects = _distinct(touched["subject"])
    own = {"subjects": list(subjects), "since_ns": since, "until_ns": until}
    steps = rows(views, "timeline_own_step", own)["step_ordinal"].to_pylist()
    return Scope(
        since - margin,
        until + margin,
        processes=_distinct(touched["process_uid"]) or ("-",),
        subjects=subjects + _connections(subjects),
        steps=tuple(steps),
        nodes=_distinct(touched["node"]),
    )


def _connections(subjects: tuple[str, ...]) -> tuple[str, ...]:
    """Return the connections of exchanges, which are named <node>/<connection>/<ordinal>/<side>."""
    return tuple(sorted({each.rsplit("/", 2)[0] for each in subjects if each.count("/") == 3}))


def _distinct(column: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(sorted(pc.unique(column.drop_null()).to_pylist()))


def _of_recording(views: Views, recording: str) -> Scope:
    found = rows(views, "timeline_recording", {"recording": recording})
    if not found.num_rows or found["start_ns"][0].as_py() is None:
        raise Absent(f"timeline: recording {recording!r} is not in the store, or holds nothing that lasts")
    since, until = found["start_ns"][0].as_py(), found["end_ns"][0].as_py()
    margin = int((until - since) * MARGIN_RATIO) + 1
    return Scope(since - margin, max(until, since + 1000) + margin, recording)
