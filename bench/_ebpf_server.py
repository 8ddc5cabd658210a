"""The servers that `bench/ebpf.py` watches. Run: _ebpf_server.py PORT nothing|fastapi LOG.

`nothing` is bare ASGI that streams 8 chunks and computes nothing: the worst case for a relative cost. `fastapi` streams 8
chunks and spends about 1 ms of CPU on each request. LOG gets the server's own record of each request at the end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

CHUNKS = 8
EVENT = b'data: {"id":"chatcmpl-%032x","choices":[{"delta":{"content":"tok"}}]}\n\n'
records: list[tuple[Any, ...]] = []


async def nothing(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    headers = dict(scope["headers"])
    number = int(headers[b"traceparent"][3:35], 16)
    while (await receive()).get("more_body"):
        pass
    first = 0
    if scope["path"] == "/v1/models":
        length = [(b"content-length", b"11")]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": b'{"ok":true}'})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for _ in range(CHUNKS):
            await send({"type": "http.response.body", "body": EVENT % number, "more_body": True})
            first = first or time.monotonic_ns()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    records.append((number, scope["method"], scope["path"], scope["client"][1], first))


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> StreamingResponse:
        await request.json()

        async def stream() -> AsyncIterator[bytes]:
            for number in range(CHUNKS):
                until = time.thread_time_ns() + 60_000
                while time.thread_time_ns() < until:
                    pass
                yield EVENT % number

        return StreamingResponse(stream(), media_type="text/event-stream")

    return app


def main(port: int, kind: str, log: Path) -> None:
    app = nothing if kind == "nothing" else fastapi_app()
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False, log_level="error")
    log.write_text(json.dumps(records), encoding="ascii")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
