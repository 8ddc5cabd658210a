"""The rules by HTTP, when one would have fired, an evaluation over what was replayed, and the flight recorder's windows."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from correlator.alerting import alert_rule, alerts, backtest
from correlator.alerting.keep import Keeper
from correlator.storage.store import Store
from warpline.batch import Batch
from warpline.errors import SchemaError, WarplineError

_LONGEST_NS = 86_400_000_000_000
_LOOK_S = 0.3
"""How often it is looked whether somebody still waits for a back-test."""
_MOST_STEPS = 900
"""Evaluations of a back-test: a longer window is looked at in longer steps, so that nobody waits for long."""


def keep_routes(keeper: Keeper) -> list[BaseRoute]:
    """Return GET /api/kept, the windows that collectors were asked for, and POST /api/keep, which asks for one.

    It takes since_ns, until_ns and, for one node only, node; or request and start_ns, for the nodes of one request.
    """

    def kept(request: Request) -> Response:
        return JSONResponse(keeper.described())

    def keep(request: Request) -> Response:
        asked = request.query_params
        try:
            if "request" in asked:
                made = keeper.asked_request(asked["request"], int(asked["start_ns"]))
            else:
                made = keeper.asked(int(asked["since_ns"]), int(asked["until_ns"]), asked.get("node", ""))
        except (KeyError, ValueError) as error:
            return JSONResponse({"error": f"keep: {error!r}; give since_ns and until_ns, or request and start_ns"}, 400)
        except WarplineError as error:
            return JSONResponse({"error": str(error)}, 503)
        return JSONResponse([asdict(each) for each in made])

    return [Route("/api/kept", kept), Route("/api/keep", keep, methods=["POST"])]


def routes(store: Store, accept: Callable[[Sequence[Batch]], None]) -> list[BaseRoute]:
    """Return GET /api/rules and, of a window of event time of at most a day, two more.

    POST /api/rules/evaluate?since_ns=&until_ns= stores the changes of all. GET /api/rules/test?rule=&since_ns=&until_ns=
    answers when one would have fired; each of its thresholds is a parameter of its own, where it differs from the one in
    force. Both answer lines of JSON: `progress` from 0 to 1 as it goes, at last what was found, or `error`; they end when
    nobody reads on.
    """
    numbers = alert_rule.overrides(store.settings.alerts_thresholds, alert_rule.load())

    def rules(request: Request) -> Response:
        return Response(backtest.described(store.settings), media_type="application/json")

    def evaluate(request: Request) -> Response:
        try:
            window = _window(request.query_params)
        except (KeyError, ValueError) as error:
            return JSONResponse({"error": f"rules: {error!r}; give since_ns and until_ns"}, 400)

        def found(progress: Callable[[float], None]) -> dict[str, Any]:
            firings, changes = backtest.run(alert_rule.in_force(store.settings), store, window, numbers, progress)
            if changes:
                rows = alerts.batch(changes)
                accept([Batch(rows.table, rows.rows, f"evaluation/{window[0]}/{window[1]}/{time.time_ns()}")])
            return {"firings": len(firings)}

        return StreamingResponse(_followed(request, found), media_type="application/x-ndjson")

    def test(request: Request) -> Response:
        try:
            window = _window(request.query_params)
            (rule,) = backtest.chosen([request.query_params["rule"]], store.settings)
            given = {each.name: request.query_params.get(each.name) for each in rule.thresholds}
            asked = {f"{rule.name}.{name}": float(value) for name, value in given.items() if value is not None}
        except (KeyError, ValueError, SchemaError) as error:
            return JSONResponse({"error": f"rules: {error!r}; give rule, since_ns and until_ns"}, 400)
        step_ns = max((window[1] - window[0]) // _MOST_STEPS, backtest.STEP_NS)

        def found(progress: Callable[[float], None]) -> dict[str, Any]:
            firings, changes = backtest.run([rule], store, window, numbers | asked, progress, step_ns=step_ns)
            blind = [each.summary for each in changes if each.state == "no_data"]
            return {"step_ns": step_ns, "no_data": blind[:1], "firings": [asdict(each) for each in firings]}

        return StreamingResponse(_followed(request, found), media_type="application/x-ndjson")

    return [
        Route("/api/rules", rules),
        Route("/api/rules/test", test),
        Route("/api/rules/evaluate", evaluate, methods=["POST"]),
    ]


class _NobodyReadsError(Exception):
    """Who asked has gone."""


async def _followed(
    request: Request, work: Callable[[Callable[[float], None]], dict[str, Any]]
) -> AsyncIterator[bytes]:
    """Do work in a thread; yield lines of its progress, by the hundredth, and of what it found.

    It ends when nobody reads on. uvicorn takes what is sent to one who has gone without a word: so it is asked.
    """
    said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    gone, told = threading.Event(), -1

    def progress(share: float) -> None:
        nonlocal told
        if gone.is_set():
            raise _NobodyReadsError
        if int(share * 100) > told:
            told = int(share * 100)
            said.put({"progress": share})

    def run() -> None:
        try:
            said.put(work(progress))
        except _NobodyReadsError:
            pass
        except WarplineError as error:
            said.put({"error": str(error)})
        finally:
            said.put(None)

    threading.Thread(target=run, name="back-test", daemon=True).start()
    try:
        while not await request.is_disconnected():
            try:
                line = await run_in_threadpool(said.get, timeout=_LOOK_S)
            except queue.Empty:
                continue
            if line is None:
                return
            yield json.dumps(line).encode() + b"\n"
    finally:
        gone.set()


def _window(query: Mapping[str, str]) -> tuple[int, int]:
    window = int(query["since_ns"]), int(query["until_ns"])
    if not 0 < window[1] - window[0] <= _LONGEST_NS:
        raise ValueError("until_ns is not within a day after since_ns")
    return window
