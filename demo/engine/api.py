"""The API server: OpenAI's interface over HTTP, the engine behind ZMQ, and two metrics pages.

`GET /metrics` is the engine's own page, `GET /dcgm/metrics` what a DCGM exporter would say of the GPU. `POST /demo/fault`
changes the double: `{"clock_ratio": 0.5}`, `{"memory_errors": 1}`, `{"weights_on_host_mb": 400}`,
`{"memory_taken_mib": 60000}`, `{"kv_blocks": 40}`, `{"max_num_seqs": 1}`, `{"max_num_batched_tokens": 64}`.
`GET /demo/log` is the server's own record of every completion, which the probes are compared with.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from demo.engine import MODEL, kv
from demo.engine.client import EngineClient
from demo.engine.gpu_page import Fetched, GpuPage, Served, engine_page
from demo.engine.wire import ABORTED, FINISH_REASONS, EngineCoreRequest, SamplingParams

_WORDS = ["one", "request", "from", "the", "client", "socket", "to", "the", "GPU", "kernel", "and", "back", "again"]
_TRACE_HEADERS = ("traceparent", "tracestate")
_VOCABULARY = 32_000


class Server:
    """What the handlers share."""

    def __init__(self, directory: Path) -> None:
        """Bind the engine's sockets in `directory`."""
        self.engine = EngineClient(directory)
        self.page = GpuPage()
        self.log: list[dict[str, Any]] = []
        self.web = httpx.AsyncClient(timeout=60)
        self.fetched, self.served = Fetched(), Served()

    def came(self, record: dict[str, Any]) -> None:
        """Note that tokens of a request came."""
        if "first_ns" not in record:
            record["first_ns"] = time.monotonic_ns()
            self.served.first_token((record["first_ns"] - record["start_ns"]) / 1e9)

    def ended(self, record: dict[str, Any]) -> None:
        """Note that a request ended."""
        record["end_ns"] = time.monotonic_ns()
        self.served.finished += 1

    def request(self, http: Request, body: dict[str, Any], prefix: str) -> tuple[EngineCoreRequest, dict[str, Any]]:
        """Return the engine's request for an HTTP request, and the log's record of it. Ids are made as vLLM makes them."""
        given = http.headers.get("x-request-id", "")
        external = prefix + (given or uuid.uuid4().hex)
        internal = f"{external}-{secrets.token_hex(4)}"
        tokens = _tokens(body)
        asked = http.headers.get("x-demo-chunks") or body.get("max_completion_tokens") or body.get("max_tokens") or 16
        core = EngineCoreRequest(
            internal, tokens, None, SamplingParams(int(asked), extra_args=_extra(body)), None,
            time.time(),
            trace_headers={name: http.headers[name] for name in _TRACE_HEADERS if name in http.headers} or None,
            external_req_id=external,
        )  # fmt: skip
        record = {
            "request_id": given, "response_id": external, "internal_id": internal, "stream": bool(body.get("stream")),
            "chunks": int(asked), "prompt_tokens": len(tokens), "start_ns": time.monotonic_ns(),
        }  # fmt: skip
        self.log.append(record)
        return core, record


def _extra(body: dict[str, Any]) -> dict[str, Any] | None:
    params = body.get("kv_transfer_params")
    return {"kv_transfer_params": params} if params else None


def _tokens(body: dict[str, Any]) -> list[int]:
    """One token a word: a hash of it, so that equal texts have equal tokens."""
    texts = [str(message.get("content", "")) for message in body.get("messages", ())] or [str(body.get("prompt", ""))]
    return [zlib.crc32(word.encode()) % _VOCABULARY for text in texts for word in text.split()] or [0]


def make(directory: Path) -> FastAPI:
    """Return the application; its engine lives from start-up to shut-down."""
    server = Server(directory)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await server.engine.start()
        yield
        await server.engine.stop()
        await server.web.aclose()

    app = FastAPI(title="Warpline model server double", lifespan=life)
    app.include_router(kv.router)

    @app.get("/health")
    async def health() -> Response:
        await server.engine.call("state")
        return Response(status_code=200)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "warpline"}]}

    @app.get("/demo/log")
    async def log() -> JSONResponse:
        return JSONResponse(server.log)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(engine_page(await server.engine.call("state"), server.fetched, server.served))

    @app.get("/dcgm/metrics")
    async def dcgm() -> PlainTextResponse:
        return PlainTextResponse(server.page.render(await server.engine.call("state")))

    @app.post("/demo/fault")
    async def fault(request: Request) -> JSONResponse:
        return await _fault(server, await request.json())

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        return await _complete(server, request, "chatcmpl-", "chat.completion")

    @app.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> Response:
        return await _complete(server, request, "cmpl-", "text_completion")

    return app


async def _fault(server: Server, wanted: dict[str, Any]) -> JSONResponse:
    try:
        ratio = wanted.pop("clock_ratio", None)
        if ratio is not None:
            await server.engine.call("set_clock_ratio", float(ratio))
        errors = wanted.pop("memory_errors", None)
        if errors is not None:
            await server.engine.call("fail_memory", int(errors))
        spilled = wanted.pop("weights_on_host_mb", None)
        if spilled is not None:
            await server.engine.call("spill_weights", int(spilled))
        slowdown = wanted.pop("gemm_slowdown", None)
        if slowdown is not None:
            await server.engine.call("slow_gemm", float(slowdown))
        server.page.taken_mib = int(wanted.pop("memory_taken_mib", server.page.taken_mib))
        if wanted:
            await server.engine.call("set_policy", wanted)
    except ValueError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    return JSONResponse(await server.engine.call("state"))


async def _complete(server: Server, request: Request, prefix: str, kind: str) -> Response:
    body = await request.json()
    params = body.get("kv_transfer_params") or {}
    if params.get("do_remote_prefill"):
        try:
            await kv.fetch(server.web, params, server.fetched)
        except (httpx.HTTPError, KeyError, ValueError) as error:
            return JSONResponse({"error": {"message": f"no KV cache from the prefill engine: {error!r}"}}, 502)
    core, record = server.request(request, body, prefix)
    if record["stream"]:
        return StreamingResponse(_stream(server, core, record, kind), media_type="text/event-stream")
    words, reason, given_up = [], None, None
    async for output in server.engine.generate(core):
        words += [_word(token) for token in output.new_token_ids]
        server.came(record)
        reason, given_up = output.finish_reason, output.stop_reason
    server.ended(record)
    if reason == ABORTED:
        return JSONResponse({"error": {"message": f"the engine gave it up: {given_up}"}}, status_code=503)
    usage = {"prompt_tokens": record["prompt_tokens"], "completion_tokens": len(words)}
    usage["total_tokens"] = sum(usage.values())
    answer = _message(record, kind, "".join(words), reason) | {"usage": usage}
    if params.get("do_remote_decode"):
        base = str(request.base_url).rstrip("/")
        answer["kv_transfer_params"] = kv.offered(base, core.request_id, record["prompt_tokens"])
    return JSONResponse(answer)


async def _stream(server: Server, core: EngineCoreRequest, record: dict[str, Any], kind: str) -> AsyncIterator[bytes]:
    async for output in server.engine.generate(core):
        text = "".join(_word(token) for token in output.new_token_ids)
        server.came(record)
        yield b"data: " + json.dumps(_message(record, f"{kind}.chunk", text, output.finish_reason)).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"
    server.ended(record)


def _word(token: int) -> str:
    return _WORDS[token % len(_WORDS)] + " "


def _message(record: dict[str, Any], kind: str, text: str, reason: int | None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": None if reason is None else FINISH_REASONS[reason]}
    if kind.startswith("chat"):
        choice["delta" if kind.endswith("chunk") else "message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    return {
        "id": record["response_id"], "object": kind, "created": int(time.time()), "model": MODEL, "choices": [choice],
    }  # fmt: skip
