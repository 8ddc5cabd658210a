"""The rules by HTTP: what they are, and an evaluation of them over a window that was replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from correlator.alerting import alert_rule, alerts, backtest
from correlator.storage.store import Store
from warpline.batch import Batch
from warpline.errors import WarplineError

_LONGEST_NS = 86_400_000_000_000


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
            firings, changes = backtest.run(alert_rule.load(), store.query, window)
            if changes:
                found = alerts.batch(changes)
                accept([Batch(found.table, found.rows, f"evaluation/{window[0]}/{window[1]}/{time.time_ns()}")])
        except WarplineError as error:
            return JSONResponse({"error": str(error)}, 503)
        return JSONResponse({"firings": len(firings)})

    return [Route("/api/rules", rules), Route("/api/rules/evaluate", evaluate, methods=["POST"])]
