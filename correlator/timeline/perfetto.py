"""Any window, request or recording as a Chrome trace (JSON, gzip), which Perfetto, speedscope and chrome://tracing open.

    /api/perfetto?recording= | request= | from_ns=&to_ns=      application/gzip

DuckDB writes the text of each event, so a million bars cost seconds and no memory: the answer is streamed. Bars of lanes
that can overlap (requests, spans, flows) are asynchronous events, the others complete ones. `baseTimeNanoseconds` and the
categories are Kineto's, so what reads Kineto traces reads this, Warpline's own import included.

Format: Chrome's "Trace Event Format"; ts and dur in µs, here with three decimals.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from correlator.timeline import timeline_scope
from correlator.timeline.timeline_scope import Absent, Scope, Views
from warpline import __version__
from warpline.errors import StoreError

_GZIP_BITS = 31
_LEVEL = 3
"""Of zlib: a third of level 6's time for a tenth more bytes (deflating a 60 MB trace)."""


class Source(Views, Protocol):
    """What answers views by name, and queries of the correlator's own: the store."""

    def read(self, sql: str, bound: Mapping[str, Any]) -> pa.RecordBatchReader:
        """Return the rows of a query as they come."""


def routes(store: Source) -> list[Route]:
    """Return the routes that the query API includes."""

    def answer(request: Request) -> Response:
        try:
            scope = timeline_scope.find(store, request.query_params)
            pieces = trace(store, scope)
            first = next(pieces)  # What goes wrong at once can still be said with a status.
        except Absent as error:
            return JSONResponse({"error": str(error)}, 404)
        except StoreError as error:
            return JSONResponse({"error": str(error)}, 400)
        headers = {"content-disposition": f'attachment; filename="{_file_name(scope, request.query_params)}"'}
        body = compressed(itertools.chain([first], pieces))
        return StreamingResponse(body, media_type="application/gzip", headers=headers)

    return [Route("/api/perfetto", answer)]


def trace(store: Source, scope: Scope) -> Iterator[bytes]:
    """Yield the JSON text of a scope's trace, in pieces; raises StoreError where the store cannot answer."""
    sql = (files("correlator") / "sql" / "_perfetto.sql").read_text("utf-8")
    base = scope.from_ns
    rows = store.read(sql, scope.parameters() | {"base_ns": base})
    maker = {"made_by": f"warpline {__version__}", "recording": scope.recording}
    about = {"schemaVersion": 1, "displayTimeUnit": "ns", "baseTimeNanoseconds": base, "otherData": maker}
    yield json.dumps(about)[:-1].encode() + b',"traceEvents":['
    between = b"\n"
    for batch in rows:
        if batch.num_rows:
            yield between + _joined(batch.column(0))
            between = b",\n"
    yield b"\n]}\n"


def _joined(events: pa.Array) -> bytes:
    whole = pa.ListArray.from_arrays(pa.array([0, len(events)], pa.int32()), events.cast(pa.string()))
    text: bytes = pc.binary_join(whole, ",\n")[0].as_buffer().to_pybytes()
    return text


def compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a gzip stream of `pieces`; it breaks off, without its end, where they raise."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_BITS)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _file_name(scope: Scope, query: Mapping[str, str]) -> str:
    asked = scope.recording or query.get("request") or f"{scope.from_ns}-{scope.to_ns}"
    plain = "".join(each if each.isalnum() or each in "-_" else "_" for each in asked)[:80]
    return f"warpline-{plain}.pt.trace.json.gz"
