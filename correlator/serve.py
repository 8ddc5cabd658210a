"""The query API: what the dashboard, the collectors, the demo and any script read. Views travel as Arrow streams."""

from __future__ import annotations

import itertools
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from correlator.doors.access import Access
from correlator.storage.store import Store
from correlator.wanted import Wanted
from warpline import telemetry
from warpline.errors import SchemaError, SettingsError, StoreError
from warpline.settings import Settings
from warpline.telemetry import Reading

log = logging.getLogger(__name__)

ARROW = "application/vnd.apache.arrow.stream"
_PIECE_BYTES = 1 << 20

Readings = Callable[[], Iterable[Reading]]


class Api:
    """The answers of the query API on one store."""

    def __init__(self, store: Store, readings: Readings, wanted: Wanted) -> None:
        """Answer from `store`; /metrics tells `readings`, collectors are told what is `wanted`."""
        self.store, self.wanted = store, wanted
        self._registry: CollectorRegistry = telemetry.registry(readings)

    def routes(self) -> list[BaseRoute]:
        """Return the API's own routes."""
        return [
            Route("/api/views", self.views),
            Route("/api/view/{name}", self.view),
            Route("/api/table/{name}", self.view),
            Route("/api/detail", self.detail),
            Route("/api/detail", self.wish, methods=["POST"]),
            Route("/healthz", self.health),
            Route("/metrics", self.metrics),
        ]

    def views(self, request: Request) -> Response:
        """List the views: name, doc, parameters, columns."""
        return JSONResponse(self.store.views())

    def view(self, request: Request) -> Response:
        """Stream a view, or a table, as Arrow IPC; 404 where there is none, 400 where its parameters do not fit."""
        try:
            reader = self.store.view(request.path_params["name"], request.query_params)
            first = next(reader, None)  # What goes wrong at once can still be said with a status.
        except SchemaError as error:
            return JSONResponse({"error": str(error)}, 404)
        except StoreError as error:
            return JSONResponse({"error": str(error)}, 400)
        return StreamingResponse(stream(reader.schema, first, reader), media_type=ARROW)

    def detail(self, request: Request) -> Response:
        """Say which detail and windows are wanted of the collector of `node`."""
        return JSONResponse(self.wanted.of(request.query_params.get("node", "")))

    async def wish(self, request: Request) -> Response:
        """Ask collectors for more detail, for a time."""
        try:
            self.wanted.wish(json.loads(await request.body()))
        except (ValueError, StoreError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({}, 202)

    def health(self, request: Request) -> Response:
        """Say that the process answers."""
        return PlainTextResponse("ok\n")

    def metrics(self, request: Request) -> Response:
        """Answer a Prometheus scrape."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


class _Pieces:
    """A file that an Arrow writer writes to and that is emptied as it fills."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        self.size += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing waits here."""

    def take(self) -> bytes:
        taken, self._pieces, self.size = b"".join(self._pieces), [], 0
        return taken


def stream(schema: pa.Schema, first: pa.RecordBatch | None, rest: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Yield an Arrow IPC stream in pieces of about a megabyte; it breaks off, without its end mark, where `rest` raises."""
    sink = _Pieces()
    writer = pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema)
    for batch in itertools.chain([] if first is None else [first], rest):
        writer.write_batch(batch)
        if sink.size >= _PIECE_BYTES:
            yield sink.take()
    writer.close()
    yield sink.take()


class BearerToken:
    """Lets in who shows a token, where the settings ask for one; /healthz is for everyone."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Ask for what `access` says before `app` answers."""
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 where the token is missing or wrong."""
        if scope["type"] == "http" and scope["path"] != "/healthz":
            given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            if not self._access.tokens.admits(given):
                answer = JSONResponse(
                    {"error": "query api: no valid bearer token; give one that the correlator knows"}, 401
                )
                return await answer(scope, receive, send)
        return await self._app(scope, receive, send)


class QueryServer:
    """The query API on its address, in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        readings: Readings,
        wanted: Wanted,
        more_routes: Sequence[BaseRoute] = (),
    ) -> None:
        """Bind the address; raise SettingsError where it is taken. `more_routes` are served beside the API's own."""
        access = Access(settings)
        host, port = access.address(settings.correlator_query_address, "query")
        self.api = Api(store, readings, wanted)
        self._socket = _bound(host, port)
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        app = Starlette(routes=[*self.api.routes(), *more_routes], middleware=[Middleware(BearerToken, access=access)])
        config = uvicorn.Config(
            app, log_config=None, access_log=False, log_level="warning", lifespan="off", timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="query-api", daemon=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Finish what is being answered, for a moment, and stop."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(5)
        self._socket.close()


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=256
        )
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(f"query api: {host}:{port}: {reason}; free it, or set correlator_query_address") from None
