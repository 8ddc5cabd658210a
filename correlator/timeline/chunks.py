"""The timeline's part of the query API: what there is to draw, drawn bars by the chunk, and exact nanoseconds.

Every address says what the timeline is about (see `timeline_scope.find`) and then:

    /api/timeline/tracks                              JSON: groups, tracks, rows, bounds, clocks
    /api/timeline/chunk?level=&first=&tiles=          bytes (`timeline_wire`): tiles of 512 buckets of 2^level ns
    /api/timeline/lines?since_ns=&until_ns=&points=   JSON: GPU measures, as lines
    /api/timeline/at?row=&at_ns=&slack_ns=            JSON: one bar, exactly, with what it is tied to and how that is known
    /api/timeline/find?text=                          JSON: the bars whose name holds a text
    /api/timeline/profile?since_ns=&until_ns=         JSON: what took the time in a window, by name
    /api/timeline/about                               JSON: a request's phases, GPU shares, blame, findings

Why the level of detail is computed by DuckDB at each request and kept in no pyramid: it costs 31 ms for a million bars
in tables of numbers, a quarter of a second for two million with names (2 cores), and is never out of date.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from correlator.timeline import timeline_scope, timeline_tracks, timeline_wire
from correlator.timeline.timeline_scope import Absent, Scope, Views, rows, whole
from warpline.errors import StoreError

MAX_LEVEL = 52
_CACHE_BYTES = 64 * 1024 * 1024
_SCOPE_SECONDS = 20.0
_ANSWER_SECONDS = 60.0


def routes(views: Views) -> list[Route]:
    """Return the routes that the query API includes; `views` is the store."""
    timelines = Timelines(views)
    return [
        Route(f"/api/timeline/{name}", _answer(method))
        for name, method in (
            ("tracks", timelines.tracks),
            ("chunk", timelines.chunk),
            ("lines", timelines.lines),
            ("at", timelines.at),
            ("find", timelines.find),
            ("profile", timelines.profile),
            ("about", timelines.about),
        )
    ]


def _answer(method: Callable[[Mapping[str, str]], Response]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        try:
            return method(request.query_params)
        except Absent as error:
            return JSONResponse({"error": str(error)}, status_code=404)
        except StoreError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return answer


class Timelines:
    """Answers for the timelines of one store. Safe to share between threads where the store is."""

    def __init__(self, views: Views) -> None:
        """Make one that reads `views`; it keeps recent scopes for seconds and recent chunks of what no longer changes."""
        self._views = views
        self._scopes: OrderedDict[tuple[str, ...], tuple[float, Scope]] = OrderedDict()
        self._answers = _Answers(_CACHE_BYTES)

    def tracks(self, query: Mapping[str, str]) -> Response:
        """Return what there is to draw."""
        scope = self._scope(query)
        body = self._answer(scope, (scope, "tracks"), lambda: timeline_tracks.encode(self._views, scope))
        return Response(body, media_type="application/json")

    def chunk(self, query: Mapping[str, str]) -> Response:
        """Return the bars of up to eight tiles at one level of detail."""
        level, first, tiles = (whole(query, key) for key in ("level", "first", "tiles"))
        if not (0 <= level <= MAX_LEVEL and 1 <= tiles <= timeline_wire.MAX_TILES and abs(first) < 1 << 40):
            raise StoreError(
                f"timeline: level {level}, first {first}, tiles {tiles}; give levels 0 to {MAX_LEVEL} "
                f"and 1 to {timeline_wire.MAX_TILES} tiles"
            )
        scope = self._scope(query)
        began = time.perf_counter()
        key = (scope, level, first, tiles)
        body = self._answer(scope, key, lambda: chunk(self._views, scope, level, first, tiles))
        keep = "no-store" if scope.live else "private, max-age=60"
        took = f"lod;dur={(time.perf_counter() - began) * 1e3:.1f}"
        return Response(
            body, media_type="application/octet-stream", headers={"Cache-Control": keep, "Server-Timing": took}
        )

    def lines(self, query: Mapping[str, str]) -> Response:
        """Return the measures of the scope's GPUs over a window, in at most `points` points each."""
        scope = self._scope(query)
        since, until = whole(query, "since_ns", scope.from_ns), whole(query, "until_ns", scope.to_ns)
        points = min(max(whole(query, "points", 400), 10), 4000)
        bucket = max((until - since) // points, 1)
        nodes = list(scope.nodes)
        found = rows(
            self._views, "timeline_line", {"since_ns": since, "until_ns": until, "bucket_ns": bucket, "nodes": nodes}
        )
        return JSONResponse({"since_ns": str(since), "bucket_ns": bucket, "lines": _series(found, bucket)})

    def at(self, query: Mapping[str, str]) -> Response:
        """Return the bar at a moment on a row, as measured, or null where there is none."""
        scope = self._scope(query)
        try:
            row = int(query.get("row", ""), 16)
        except ValueError:
            raise StoreError(f"timeline: row is {query.get('row')!r}; give an id that tracks returned") from None
        where = scope.parameters()
        del where["since_ns"], where["until_ns"]
        asked = {
            "row_id": row,
            "at_ns": whole(query, "at_ns"),
            "slack_ns": max(whole(query, "slack_ns", 0), 0),
            **where,
        }
        found = rows(self._views, "timeline_at", asked).to_pylist()
        return JSONResponse({"bar": None} if not found else self._detail(scope, found[0], query["row"]))

    def find(self, query: Mapping[str, str]) -> Response:
        """Return the bars whose name holds `text`, the longest 200, and how many there are."""
        text = query.get("text", "")
        if not text.strip():
            raise StoreError("timeline: text is empty; give a part of a name")
        scope = self._scope(query)
        found = rows(self._views, "timeline_find", {"text": text, **scope.parameters()}).to_pylist()
        bars = [{**_bar(each), "row": f"{each['row_id']:x}"} for each in found]
        return JSONResponse({"found": found[0]["found"] if found else 0, "bars": bars})

    def profile(self, query: Mapping[str, str]) -> Response:
        """Return what took the time in a window, by name and lane, the most first."""
        scope = self._scope(query)
        since, until = whole(query, "since_ns", scope.from_ns), whole(query, "until_ns", scope.to_ns)
        found = rows(self._views, "timeline_profile", {**scope.parameters(since, until), "steps": list(scope.steps)})
        return JSONResponse({"names": found.to_pylist()})

    def about(self, query: Mapping[str, str]) -> Response:
        """Return what the joins know of a request: its phases, GPU shares, blame and findings."""
        scope = self._scope(query)
        asked = {"subjects": list(scope.subjects)}
        views = {
            "phases": "timeline_phase",
            "shares": "timeline_share",
            "blame": "timeline_blame",
            "findings": "timeline_finding",
        }
        return JSONResponse({name: rows(self._views, view, asked).to_pylist() for name, view in views.items()})

    def _detail(self, scope: Scope, bar: dict[str, Any], row: str) -> dict[str, Any]:
        detail: dict[str, Any] = {"bar": {**_bar(bar), "row": row}, "links": [], "step": [], "edges": []}
        if bar["correlation_id"] is not None:
            detail["links"] = self._links(scope, bar)
        if bar["step_ordinal"] is not None and scope.recording is None:
            window = {"step_ordinal": bar["step_ordinal"], "since_ns": scope.from_ns, "until_ns": scope.to_ns}
            owners = rows(self._views, "timeline_step", window).to_pylist()
            detail["step"] = [{**each, "own": each["owner"] in scope.subjects} for each in owners]
        if bar["subject"]:
            detail["edges"] = rows(self._views, "timeline_edge", {"subject": bar["subject"]}).to_pylist()
        return detail

    def _links(self, scope: Scope, bar: dict[str, Any]) -> list[dict[str, Any]]:
        tied = {key: bar[key] for key in ("process_uid", "correlation_id")}
        tied |= {"session": -1 if bar["session"] is None else bar["session"], "recording": scope.recording or "-"}
        known = {"relation": _RELATION[bar["lane"]], "evidence": "exact"}
        known["rule"] = "same process, CUPTI session and correlation id"
        found = rows(self._views, "timeline_link", tied).to_pylist()
        return [{**_bar(each), **known, "row": f"{each['row_id']:x}"} for each in found if each["lane"] != bar["lane"]]

    def _answer(self, scope: Scope, key: Any, make: Callable[[], bytes]) -> bytes:
        return make() if scope.live else self._answers.get(key, make)

    def _scope(self, query: Mapping[str, str]) -> Scope:
        key = tuple(query.get(each, "") for each in ("request", "recording", "from_ns", "to_ns"))
        kept = self._scopes.get(key)
        if kept is not None and time.monotonic() - kept[0] < _SCOPE_SECONDS:
            return kept[1]
        found = timeline_scope.find(self._views, query)
        self._scopes[key] = (time.monotonic(), found)
        while len(self._scopes) > 256:
            self._scopes.popitem(last=False)
        return found


_RELATION = {"launch": "enqueued", "kernel": "enqueued by"}


def chunk(views: Views, scope: Scope, level: int, first: int, tiles: int) -> bytes:
    """Return the bars of `tiles` tiles from tile `first`, counted from the scope's start, at 2^level ns a bucket."""
    tile_ns = timeline_wire.TILE_BUCKETS << level
    since = scope.from_ns + first * tile_ns
    window = scope.parameters(since, since + tiles * tile_ns)
    lod = rows(views, "timeline_lod", {**window, "bucket_ns": 1 << level, "steps": list(scope.steps)})
    return timeline_wire.encode(lod, since, level)


def _bar(bar: dict[str, Any]) -> dict[str, Any]:
    """Return a bar for JSON, its times as texts and its duration where it has ended."""
    start, end = bar["start_ns"], bar["end_ns"]
    times = {"start_ns": str(start), "end_ns": None if end is None else str(end)}
    kept = {key: value for key, value in bar.items() if key not in ("row_id", "found")}
    return {**kept, **times, "duration_ns": None if end is None else end - start}


def _series(found: pa.Table, bucket_ns: int) -> list[dict[str, Any]]:
    """Return one series per GPU, measure and part: bucket numbers and values; of what only grows, its rate a second."""
    if not found.num_rows:
        return []
    texts = [pc.fill_null(found[name].cast(pa.string()), "") for name in _SERIES]
    key = pc.binary_join_element_wise(*texts, "\x1f").combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    return [
        _line(found.slice(begin, end - begin), bucket_ns)
        for begin, end in zip(first, np.append(first[1:], len(key)), strict=True)
    ]


def _line(part: pa.Table, bucket_ns: int) -> dict[str, Any]:
    head = part.slice(0, 1).to_pylist()[0]
    at, value = part["bucket"].to_numpy(), part["value"].to_numpy()
    if head["monotonic"]:
        value = np.maximum(np.diff(part["greatest"].to_numpy()), 0) / (np.diff(at) * bucket_ns / 1e9)
        at = at[1:]
    said = {name: head[name] for name in (*_SERIES, "index", "simulated")}
    return {**said, "rate": bool(head["monotonic"]), "at": at.tolist(), "value": value.tolist()}


_SERIES = ("node", "gpu_uuid", "gpu_instance", "metric", "part")


class _Answers:
    """Recent answers, up to a number of bytes and for a minute: late rows re-open what they touch, and must be seen."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[Any, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], bytes]) -> bytes:
        """Return the answer kept under `key`, made anew where there is none or it is old."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None and time.monotonic() - found[0] < _ANSWER_SECONDS:
                self._kept.move_to_end(key)
                return found[1]
        body = make()
        with self._lock:
            self._size -= len(self._kept.pop(key, (0.0, b""))[1])
            self._kept[key] = (time.monotonic(), body)
            self._size += len(body)
            while self._size > self._limit:
                self._size -= len(self._kept.popitem(last=False)[1][1])
        return body
