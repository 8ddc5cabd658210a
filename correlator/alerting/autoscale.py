"""What an autoscaler asks for: GET /api/saturation, in the form of KEDA's metrics-api trigger."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from correlator.storage.store import Store
from warpline.errors import WarplineError

_OF = ("model", "pool", "namespace")
_TOLD = ("saturation", "waiting", "running")


def routes(store: Store) -> list[BaseRoute]:
    """Return GET /api/saturation: saturation (0-1), waiting and running requests now, of the fleet or, where they are given,
    of a `model`, a `pool` and a `namespace`; null for what is not known, 503 where nothing is.

    KEDA keeps the replicas that there are when it gets no number: better than to take "unknown" for idle.
    """

    def saturation(request: Request) -> Response:
        of = {name: request.query_params[name] for name in _OF if request.query_params.get(name)}
        try:
            row = store.view("saturation", {"now_ns": time.time_ns(), **of}).read_all().to_pylist()[0]
        except WarplineError as error:
            return JSONResponse({"error": str(error)}, 503)
        if row["saturation"] is None and row["waiting"] is None:
            asked = "".join(f" of {name} {value!r}" for name, value in of.items())
            return JSONResponse({"error": f"saturation: no GPU and no engine{asked} has told anything for 30 s"}, 503)
        return JSONResponse({name: row[name] for name in _TOLD})

    return [Route("/api/saturation", saturation)]
