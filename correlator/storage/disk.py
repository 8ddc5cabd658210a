"""What the store takes on disk, by the day, what is left there, and how long it is kept: GET /api/disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from correlator.storage.store import Store
from warpline.settings import Settings


def routes(store: Store, settings: Settings, spool_bytes: Callable[[], int]) -> list[BaseRoute]:
    """Return GET /api/disk; `spool_bytes` says what waits in the spool. All sizes are bytes; a bound of 0 bounds nothing."""

    def disk(request: Request) -> Response:
        try:
            usage = shutil.disk_usage(settings.state_dir)
        except OSError as error:
            return JSONResponse({"error": f"disk: {settings.state_dir}: {error}"}, 503)
        days = [
            {"date": day.date, "bytes": day.bytes, "segments": len(day.segments)}
            for _, day in sorted(store.days.copy().items())
        ]
        said = {
            "days": days,
            "spool_bytes": spool_bytes(),
            "spool_limit_bytes": settings.correlator_spool_mb << 20,
            "free_bytes": usage.free,
            "total_bytes": usage.total,
            "reserve_bytes": settings.correlator_disk_reserve_mb << 20,
            "retention_days": settings.correlator_retention_days,
            "retention_bytes": int(settings.correlator_retention_gb * 1e9),
        }
        return JSONResponse(said)

    return [Route("/api/disk", disk)]
