"""A small query API for tests: the real store and the real views behind the contract's addresses, filled by the test."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from correlator import timeline
from correlator.store import Store
from warpline.batch import Batch
from warpline.errors import SchemaError, StoreError
from warpline.settings import Settings


def store(directory: Path, batches: Iterable[Batch] = ()) -> Store:
    """Return a store in `directory` that holds the batches."""
    made = Store(Settings(state_dir=str(directory), correlator_disk_reserve_mb=1))
    made.write([dataclasses.replace(batch, batch_id=f"scene/{at}") for at, batch in enumerate(batches)])
    return made


def app(of: Store) -> Starlette:
    """Return the query API over a store."""

    def view(request: Request) -> Response:
        try:
            reader = of.view(request.path_params["name"], dict(request.query_params))
            found = reader.read_all()
        except (SchemaError, StoreError) as error:
            return JSONResponse({"error": str(error)}, status_code=404 if isinstance(error, SchemaError) else 400)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, found.schema) as writer:
            writer.write_table(found)
        return Response(sink.getvalue().to_pybytes(), media_type="application/vnd.apache.arrow.stream")

    return Starlette(
        routes=[
            Route("/healthz", lambda request: JSONResponse({"status": "ok"})),
            Route("/api/views", lambda request: JSONResponse(of.views())),
            Route("/api/view/{name}", view),
            *timeline.routes(of),
        ]
    )


@contextmanager
def serving(of: Store) -> Iterator[str]:
    """Serve a store on a free loopback port; yield its address."""
    server = uvicorn.Server(uvicorn.Config(app(of), host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(5)
