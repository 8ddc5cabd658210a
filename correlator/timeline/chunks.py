"""The timeline's part of the query API: what there is to draw, drawn bars by the chunk, and exact nanoseconds.

Every address says what the timeline is about (see `timeline_scope.find`) and then:

    /api/timeline/tracks                              JSON: groups, tracks, rows, bounds, clocks
    /api/timeline/chunk?level=&first=&tiles=&packed=  bytes (`timeline_wire`), gzip where `packed`: tiles of 512 buckets of
                                                      2^level ns; of a scope that is still being read, what there is
    /api/timeline/lines?since_ns=&until_ns=&points=   JSON: GPU measures as lines, throttling and errors as marks
    /api/timeline/path?since_ns=&until_ns=            JSON: what the request was in at each moment, and for how long in all
    /api/timeline/at?row=&at_ns=&slack_ns=&brief=     JSON: one bar, exactly, with what it is tied to and how that is known
    /api/timeline/find?text=                          JSON: the bars whose name holds a text
    /api/timeline/profile?since_ns=&until_ns=         JSON: what took the time in a window, by name
    /api/timeline/about                               JSON: a request's phases, GPU shares, blame, findings
    /api/timeline/explain                             JSON: why a request took as long, as `warpline explain` says it

`version`, which tracks tells, asks for that reading of the scope: its bounds, from which times count, move as a live one
goes on. `brief` leaves out of `at` all but the bar's name and times, which cost nothing: what a hovering pointer asks for.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from correlator import explain
from correlator.timeline import timeline_lod, timeline_look, timeline_tracks, timeline_wire
from correlator.timeline.timeline_answers import Answers
from correlator.timeline.timeline_bars import ScopeBars
from correlator.timeline.timeline_catalogue import Catalogue
from correlator.timeline.timeline_preview import Preview
from correlator.timeline.timeline_scope import Absent, Scope, Views, rows, whole
from correlator.timeline.timeline_shelf import Opened, Shelf
from warpline.errors import StoreError

MAX_LEVEL = 52
KEPT_BYTES = 768 << 20
"""Memory for the bars of scopes that were looked at lately, where nobody says otherwise."""

KEPT_CHUNK_BYTES = 32 << 20
"""Memory for packed chunks that were asked for lately, of all scopes: those that several people look at, mostly."""

PATIENCE_S = 0.3
"""How long a chunk waits for bars that are still being read, before it is made of those that are there."""

_LEVEL, _GZIP_BITS = 2, 31
"""Of zlib: a higher level costs several times as much for a few bytes."""

AROUND_NS = 75_000_000_000
"""How far from a window a GPU's readings may be and still say something of it: dcgm-exporter reads every 30 s by default."""


def routes(views: Views, kept_bytes: int = KEPT_BYTES) -> list[Route]:
    """Return the routes that the query API includes; `views` is the store. Up to `kept_bytes` of bars are kept in memory."""
    timelines = Timelines(views, kept_bytes)
    return [
        Route(f"/api/timeline/{name}", _answer(method))
        for name, method in (
            ("tracks", timelines.tracks),
            ("chunk", timelines.chunk),
            ("lines", timelines.lines),
            ("path", timelines.path),
            ("at", timelines.at),
            ("find", timelines.find),
            ("profile", timelines.profile),
            ("about", timelines.about),
            ("explain", timelines.explain),
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

    def __init__(self, views: Views, kept_bytes: int = KEPT_BYTES) -> None:
        """Make one that reads `views` and keeps up to `kept_bytes` of the bars that were looked at last."""
        self._views, self._shelf, self._answers = views, Shelf(views, kept_bytes), Answers(KEPT_CHUNK_BYTES)

    def tracks(self, query: Mapping[str, str]) -> Response:
        """Return what there is to draw: a page opens, so what is old is read anew."""
        opened = self._shelf.open(query, anew=True)
        if opened.tracks is None:
            catalogue = self._shelf.reading(opened).catalogue
            described = timeline_tracks.describe(self._views, opened.scope, catalogue)
            opened.tracks = json.dumps({**described, "version": opened.version}).encode()
        return Response(opened.tracks, media_type="application/json")

    def chunk(self, query: Mapping[str, str]) -> Response:
        """Return the bars of up to eight tiles at one level of detail. Raises StoreError where there are no such tiles."""
        level, first, tiles = (whole(query, key) for key in ("level", "first", "tiles"))
        if not (0 <= level <= MAX_LEVEL and 1 <= tiles <= timeline_wire.MAX_TILES and abs(first) < 1 << 40):
            raise StoreError(
                f"timeline: level {level}, first {first}, tiles {tiles}; give levels 0 to {MAX_LEVEL} "
                f"and 1 to {timeline_wire.MAX_TILES} tiles"
            )
        opened = self._shelf.open(query)
        reading = self._shelf.reading(opened)
        early = reading.early(PATIENCE_S)
        if early is not None:
            return _chunk(_packed(preview(early, reading.catalogue, level)), query, "no-store")
        bars = self._shelf.bars(opened)
        asked = (opened.version, level, first, tiles)
        packed = self._answers.get(asked, lambda: _packed(chunk(bars, level, first, tiles)))
        return _chunk(packed, query, "no-store" if opened.scope.live else "private, max-age=60")

    def lines(self, query: Mapping[str, str]) -> Response:
        """Return the measures of the scope's GPUs over a window, in at most `points` points each."""
        scope = self._shelf.open(query).scope
        since, until = whole(query, "since_ns", scope.from_ns), whole(query, "until_ns", scope.to_ns)
        points = min(max(whole(query, "points", 400), 10), 4000)
        bucket = max((until - since) // points, 1)
        asked = {"since_ns": since, "until_ns": until, "around_ns": AROUND_NS, "nodes": list(scope.nodes)}
        found = rows(self._views, "timeline_line", {**asked, "bucket_ns": bucket})
        marks = rows(self._views, "timeline_mark", asked).to_pylist()
        return JSONResponse(
            {
                "since_ns": str(since),
                "bucket_ns": bucket,
                "lines": _series(found, bucket),
                "marks": [
                    {**mark, **{end: mark[end] - scope.from_ns for end in ("start_ns", "end_ns")}} for mark in marks
                ],
            }
        )

    def path(self, query: Mapping[str, str]) -> Response:
        """Return a request's critical path: its stretches in a window, and the time in each of its layers in all."""
        opened = self._shelf.open(query)
        scope = opened.scope
        since, until = whole(query, "since_ns", scope.from_ns), whole(query, "until_ns", scope.to_ns)
        bars = self._shelf.bars(opened)
        found = self._shelf.path(opened)
        drawn = found.drawn(bars.catalogue, since - scope.from_ns, until - scope.from_ns)
        return JSONResponse({"totals": found.totals(bars.catalogue), "stretches": drawn})

    def at(self, query: Mapping[str, str]) -> Response:
        """Return the bar at a moment on a row, as measured, or null where there is none; StoreError where `row` is no id."""
        opened = self._shelf.open(query)
        try:
            row = int(query.get("row", ""), 16)
        except ValueError:
            raise StoreError(f"timeline: row is {query.get('row')!r}; give an id that tracks returned") from None
        at_ns, slack_ns = whole(query, "at_ns"), max(whole(query, "slack_ns", 0), 0)
        if query.get("brief"):
            scope = opened.scope
            seen = timeline_look.nearest(self._shelf.bars(opened), row, at_ns - scope.from_ns, slack_ns)
            if seen is not None:
                return JSONResponse({"bar": {**_bar(_in_node_time(seen, scope)), "row": query["row"]}})
        return self._exactly(opened.scope, {"row_id": row, "at_ns": at_ns, "slack_ns": slack_ns}, query["row"])

    def _exactly(self, scope: Scope, asked: dict[str, int], row: str) -> Response:
        where = scope.parameters()
        del where["since_ns"], where["until_ns"]
        found = rows(self._views, "timeline_at", {**asked, **where}).to_pylist()
        return JSONResponse({"bar": None} if not found else self._detail(scope, found[0], row))

    def find(self, query: Mapping[str, str]) -> Response:
        """Return the bars whose name holds `text`, the longest 200, and how many there are; StoreError without a text."""
        text = query.get("text", "")
        if not text.strip():
            raise StoreError("timeline: text is empty; give a part of a name")
        opened = self._shelf.open(query)
        count, found = timeline_look.named(self._shelf.bars(opened), text, _length(opened))
        bars = [{**_bar(_in_node_time(each, opened.scope)), "row": f"{each['row_id']:x}"} for each in found]
        return JSONResponse({"found": count, "bars": bars})

    def profile(self, query: Mapping[str, str]) -> Response:
        """Return what took the time in a window, by name and lane, the most first."""
        opened = self._shelf.open(query)
        scope = opened.scope
        since, until = whole(query, "since_ns", scope.from_ns), whole(query, "until_ns", scope.to_ns)
        bars = self._shelf.bars(opened)
        return JSONResponse({"names": timeline_look.profile(bars, since - scope.from_ns, until - scope.from_ns)})

    def about(self, query: Mapping[str, str]) -> Response:
        """Return what the joins know of a request: its phases, GPU shares, blame and findings."""
        scope = self._shelf.open(query).scope
        subjects = {"subjects": list(scope.subjects)}
        lately = subjects | {"since_ns": scope.from_ns, "until_ns": scope.to_ns}
        views = {
            "phases": "timeline_phase",
            "shares": "timeline_share",
            "blame": "timeline_blame",
            "findings": "timeline_finding",
        }
        asked = {name: lately if name in ("shares", "blame") else subjects for name in views}
        return JSONResponse({name: rows(self._views, view, asked[name]).to_pylist() for name, view in views.items()})

    def explain(self, query: Mapping[str, str]) -> Response:
        """Return where a request's time went and what stands out, in sentences."""

        def view(name: str, **asked: Any) -> pa.Table:
            return rows(self._views, name, asked)

        found = explain.as_json(explain.explain(view, query.get("request", "")))
        return JSONResponse({key: value for key, value in found.items() if key != "request"})

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


_RELATION = {"launch": "enqueued", "kernel": "enqueued by"}


def _packed(body: bytes) -> bytes:
    return zlib.compress(body, _LEVEL, _GZIP_BITS)


def _chunk(packed: bytes, query: Mapping[str, str], keep: str) -> Response:
    body = packed if query.get("packed") else zlib.decompress(packed, _GZIP_BITS)
    return Response(body, media_type="application/octet-stream", headers={"Cache-Control": keep})


def preview(early: Preview, catalogue: Catalogue, level: int) -> bytes:
    """Return what is drawn so far of a scope that is still being read, all of it, at 2^level ns a bucket or coarser."""
    share, least = early.share, max(level, early.level)
    drawn = timeline_lod.coarser(early.drawn(), least)
    return timeline_wire.encode(drawn, catalogue.said, catalogue.row_ids, 0, least, share)


def chunk(bars: ScopeBars, level: int, first: int, tiles: int) -> bytes:
    """Return the bars of `tiles` tiles from tile `first`, counted from the scope's start, at 2^level ns a bucket."""
    tile_ns = timeline_wire.TILE_BUCKETS << level
    since = first * tile_ns
    drawn = bars.drawn(level, since, since + tiles * tile_ns)
    return timeline_wire.encode(drawn, bars.catalogue.said, bars.catalogue.row_ids, since, level)


def _length(opened: Opened) -> int:
    return opened.scope.to_ns - opened.scope.from_ns


def _in_node_time(bar: dict[str, Any], scope: Scope) -> dict[str, Any]:
    return {**bar, "start_ns": bar["start_ns"] + scope.from_ns, "end_ns": bar["end_ns"] + scope.from_ns}


def _bar(bar: dict[str, Any]) -> dict[str, Any]:
    """Return a bar for JSON, its times as texts and its duration where it has ended."""
    start, end = bar["start_ns"], bar["end_ns"]
    times = {"start_ns": str(start), "end_ns": None if end is None else str(end)}
    kept = {key: value for key, value in bar.items() if key not in ("row_id", "found")}
    return {**kept, **times, "duration_ns": None if end is None else end - start}


def _series(found: pa.Table, bucket_ns: int) -> list[dict[str, Any]]:
    """Return one series per GPU, measure and part: bucket numbers and values; of what only grows, its rate a second.

    One reading alone of what grows tells no rate, and is no series.
    """
    if not found.num_rows:
        return []
    texts = [pc.fill_null(found[name].cast(pa.string()), "") for name in _SERIES]
    key = pc.binary_join_element_wise(*texts, "\x1f").combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    ends = np.append(first[1:], len(key))
    lines = [_line(found.slice(begin, end - begin), bucket_ns) for begin, end in zip(first, ends, strict=True)]
    return [line for line in lines if line["at"]]


def _line(part: pa.Table, bucket_ns: int) -> dict[str, Any]:
    head = part.slice(0, 1).to_pylist()[0]
    at, value = part["bucket"].to_numpy(), part["value"].to_numpy()
    if head["monotonic"]:
        value = np.maximum(np.diff(part["greatest"].to_numpy()), 0) / (np.diff(at) * bucket_ns / 1e9)
        at = at[1:]
    said = {name: head[name] for name in (*_SERIES, "index", "simulated")}
    return {**said, "rate": bool(head["monotonic"]), "at": at.tolist(), "value": value.tolist()}


_SERIES = ("node", "gpu_uuid", "gpu_instance", "metric", "part")
