"""The rules by HTTP, an evaluation of them over a window that was replayed, and the flight recorder's windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from correlator.alerting import alert_rule, alerts, backtest
from correlator.alerting.keep import Keeper
from correlator.storage.store import Store
from warpline.batch import Batch
from warpline.errors import WarplineError

_LONGEST_NS = 86_400_000_000_000


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
    """Return GET /api/rules and POST /api/rules/evaluate?since_ns=&until_ns= (event time, at most a day)."""

    def rules(request: Request) -> Response:
        return Response(backtest.described(alert_rule.load()), media_type="application/json")

    def evaluate(request: Request) -> Response:
        try:
            window = int(request.query_params["since_ns"]), int(request.query_params["until_ns"])
            if not 0 < window[1] - window[0] <= _LONGEST_NS:
                raise ValueError("until_ns is not within a day after since_ns")
        except (KeyError, ValueError) as error:
            return JSONResponse({"error": f"rules: {error!r}; give since_ns and until_ns"}, 400)
        try:
            firings, changes = backtest.run(alert_rule.load(), store, window)
            if changes:
                found = alerts.batch(changes)
                accept([Batch(found.table, found.rows, f"evaluation/{window[0]}/{window[1]}/{time.time_ns()}")])
        except WarplineError as error:
            return JSONResponse({"error": str(error)}, 503)
        return JSONResponse({"firings": len(firings)})

    return [Route("/api/rules", rules), Route("/api/rules/evaluate", evaluate, methods=["POST"])]
