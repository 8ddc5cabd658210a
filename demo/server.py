"""A small OpenAI-compatible server that streams: what the demo and the tests watch from outside.

It computes nothing: a chat completion's "tokens" are words of a fixed sentence, at a pace that the request may set with the
headers `x-demo-chunks`, `x-demo-chunk-ms` and `x-demo-first-ms`. Its own record of each request (`GET /demo/log`) is the
ground truth that the probes are compared with. Run: `python -m demo.server --port 8000`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

MODEL = "warpline-demo"
_WORDS = ["one", "request", "from", "the", "client", "socket", "to", "the", "GPU", "kernel", "and", "back", "again"]

app = FastAPI(title="Warpline demo server")
app.state.log = []


@app.get("/health")
async def health() -> Response:
    """Say that the server is up."""
    return Response(status_code=200)


@app.get("/v1/models")
async def models() -> dict[str, Any]:
    """List the one model."""
    return {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "warpline"}]}


@app.get("/demo/log")
async def log() -> JSONResponse:
    """Return the server's own record of every completion, oldest first: ids and times in CLOCK_MONOTONIC ns."""
    return JSONResponse(app.state.log)


@app.post("/v1/chat/completions", response_model=None)
async def chat_completions(request: Request) -> Response:
    """Answer a chat completion, streamed where the request asks for it."""
    return await _complete(request, "chatcmpl-", "chat.completion")


@app.post("/v1/completions", response_model=None)
async def completions(request: Request) -> Response:
    """Answer a completion, streamed where the request asks for it."""
    return await _complete(request, "cmpl-", "text_completion")


async def _complete(request: Request, prefix: str, kind: str) -> Response:
    body = await request.json()
    record: dict[str, Any] = {
        "request_id": request.headers.get("x-request-id", ""),
        "response_id": prefix + (request.headers.get("x-request-id") or uuid.uuid4().hex),
        "stream": bool(body.get("stream")),
        "chunks": int(request.headers.get("x-demo-chunks", "8")),
        "start_ns": time.monotonic_ns(),
    }
    app.state.log.append(record)
    pace = {name: float(request.headers.get(f"x-demo-{name}", "0")) / 1000 for name in ("first-ms", "chunk-ms")}
    if record["stream"]:
        return StreamingResponse(_stream(record, pace, kind), media_type="text/event-stream")
    await asyncio.sleep(pace["first-ms"] + pace["chunk-ms"] * record["chunks"])
    text = " ".join(_WORDS[i % len(_WORDS)] for i in range(record["chunks"]))
    record["end_ns"] = time.monotonic_ns()
    return JSONResponse(_message(record, kind, text, finished=True))


async def _stream(record: dict[str, Any], pace: dict[str, float], kind: str) -> AsyncIterator[bytes]:
    await asyncio.sleep(pace["first-ms"])
    for index in range(record["chunks"]):
        if index and pace["chunk-ms"]:
            await asyncio.sleep(pace["chunk-ms"])
        finished = index == record["chunks"] - 1
        piece = _message(record, f"{kind}.chunk", _WORDS[index % len(_WORDS)] + " ", finished)
        record.setdefault("first_ns", time.monotonic_ns())
        yield b"data: " + json.dumps(piece).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"
    record["end_ns"] = time.monotonic_ns()


def _message(record: dict[str, Any], kind: str, text: str, finished: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if finished else None}
    if not kind.startswith("chat"):
        choice["text"] = text
    else:
        part = {"role": "assistant", "content": text}
        choice["delta" if kind.endswith("chunk") else "message"] = part
    return {
        "id": record["response_id"],
        "object": kind,
        "created": int(time.time()),
        "model": MODEL,
        "choices": [choice],
    }


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    uvicorn.run(
        "demo.server:app", host="127.0.0.1", port=args.port, workers=args.workers, log_level="warning", access_log=False
    )


if __name__ == "__main__":
    main()
