"""What an autoscaler asks for: GET /api/saturation, in the form of KEDA's metrics-api trigger."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from correlator.storage.store import Store
from warpline.errors import WarplineError


def routes(store: Store) -> list[BaseRoute]:
    """Return GET /api/saturation: saturation (0-1), waiting and running requests now; 503 where nothing is known."""

    def saturation(request: Request) -> Response:
        try:
            row = store.view("saturation", {"now_ns": time.time_ns()}).read_all().to_pylist()[0]
        except WarplineError as error:
            return JSONResponse({"error": str(error)}, 503)
        if row["saturation"] is None and row["waiting"] is None:
            # KEDA keeps the replicas that there are when it gets no number: better than to take "unknown" for idle.
            return JSONResponse({"error": "saturation: no GPU and no engine has told anything for 30 s"}, 503)
        return JSONResponse({name: row[name] or 0 for name in ("saturation", "waiting", "running")})

    return [Route("/api/saturation", saturation)]
