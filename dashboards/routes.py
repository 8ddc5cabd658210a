"""Routes beside the pages: what the canvas fetches, passed on from the query API. The browser talks to one host alone."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dashboards import read, sign
from warpline.errors import WarplineError

PARTS = ("chunk", "lines", "path", "at", "find", "profile", "trace")
"""Parts of a timeline that are passed on; each is `/api/timeline/<part>` of the query API."""

PATHS = {"trace": "/api/perfetto"}
"""Parts that live elsewhere in the query API."""

_OWN = ("sig", "until", "user")
_PASSED = ("Cache-Control", "Server-Timing", "Content-Disposition")


def routes() -> list[Route]:
    """Return the routes; all of them refuse an address that no page signed."""
    return [Route("/wl/{part}", answer, methods=["GET"])]


def answer(request: Request) -> Response:
    """Pass one part of a timeline on: 403 without a good signature, 404 for another part, 502 without a correlator."""
    refused = sign.refusal(request.query_params)
    if refused:
        return JSONResponse({"error": refused}, 403)
    part = request.path_params["part"]
    if part not in PARTS:
        return JSONResponse({"error": f"{part!r} is no part of a timeline; they are {', '.join(PARTS)}"}, 404)
    user = request.headers.get(read.settings().dashboard_user_header, "")
    if read.settings().dashboard_auth == "header" and user != request.query_params.get("user"):
        return JSONResponse({"error": "the address was signed for another user; reload the page"}, 403)
    asked = {key: value for key, value in request.query_params.items() if key not in _OWN}
    # Chunks come packed, once for all who ask: Streamlit would pack each, harder, on its event loop, while all others wait.
    packed = part == "chunk" and "gzip" in request.headers.get("accept-encoding", "")
    asked["packed"] = "1" if packed else ""
    try:
        found = read.client().get(PATHS.get(part, f"/api/timeline/{part}"), asked)
    except WarplineError as error:
        return JSONResponse({"error": str(error)}, 502)
    headers = {name: found.headers[name] for name in _PASSED if name in found.headers}
    if packed:
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(found.data, media_type=found.headers.get("content-type"), headers=headers)
