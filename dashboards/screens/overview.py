"""Overview: how many requests, how many failed, how long they took; drag a box over the slow ones to see what differs."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import differs, fired, parts, read, state, theme, words

PERCENTILES = {"p50": theme.SERIES[2], "p95": theme.SERIES[4], "p99": theme.SERIES[3]}
"""Percentile → its colour: none of those that tell answered requests from failed ones."""
TIMES = {"first byte": "ttft", "duration": "duration"}
POINTS = 5000
_TICKS = [digit * 10.0**power for power in range(-3, 8) for digit in (1, 2, 5)]
_MS = {"type": "log", "tickvals": _TICKS, "ticktext": [f"{each:,g}" for each in _TICKS]}
"""An axis that writes 200 at 200, where Plotly's own would write 2."""
BARS = 90
"""Intervals that a range is cut into, about."""
MANY = 500
"""From so many points on they are drawn fainter, so that what lies over them, and where they crowd, is seen."""
_BESIDE = {"l": 60, "r": 12, "t": 28, "b": 36}
"""Margins of the charts beside the points: with one for both, a moment of the one stands under that of the other."""


def show() -> None:
    """Show the page."""
    st.title("Overview")
    chosen = state.controls("1h")
    parts.live(_body, chosen)


def _body(chosen: state.Range) -> None:
    every = read.frame("request_summary", **chosen.bounds).iloc[0]
    if not every["requests"]:
        return _empty(chosen)
    fired.show("Fired in this time", fired.within(chosen.since_ns, chosen.until_ns), f"/alerts?{chosen.query}")
    with st.container(horizontal=True, vertical_alignment="center"):
        method = state.method()
        measure = TIMES[state.choice("Time shown", list(TIMES), "time")]
        asked = {**chosen.bounds, "method": method}
        summary = read.frame("request_summary", **asked).iloc[0]
        others = int(every["requests"]) - int(summary["requests"])
        if others:
            st.caption(f"Scrapes, probes and other GETs are left out: {others:,}.")
    if not summary["requests"]:
        return parts.nothing("No inference request began in this time", "Choose *all* above to see the others.")
    _figures(summary)
    left, right = st.columns([3, 2])
    with left:
        picked = _scatter(asked, measure, summary)
    with right:
        _rates(asked, measure, summary)
    _exemplars(picked, measure)


def _empty(chosen: state.Range) -> None:
    if not read.frame("request_summary").iloc[0]["requests"]:
        return parts.welcome()
    parts.nothing(
        f"No request began in {chosen.said}",
        *parts.elsewhere("", chosen, "http_exchange", "span"),
        "[Pipeline health](/health) says whether rows still arrive.",
    )


def _figures(row: pd.Series) -> None:
    seconds = max((int(row["last_ns"]) - int(row["first_ns"])) / 1e9, 1)
    with st.container(horizontal=True):
        st.metric(
            "Requests",
            words.count(row["requests"]),
            f"{row['requests'] / seconds:.2g} a second",
            delta_color="off",
            delta_arrow="off",
            border=True,
        )
        st.metric(
            "Failed",
            words.share(row["failed"], row["requests"]),
            words.counted(int(row["failed"]), "request"),
            delta_color="off",
            delta_arrow="off",
            border=True,
        )
        for title, key in (("First byte", "ttft"), ("Duration", "duration")):
            tail = f"p50 {words.duration(row[f'{key}_p50_ns'])} · p99 {words.duration(row[f'{key}_p99_ns'])}"
            st.metric(
                f"{title}, p95",
                words.duration(row[f"{key}_p95_ns"]),
                tail,
                delta_color="off",
                delta_arrow="off",
                border=True,
                help="From the request's first byte, at the server's socket; at the client's where no server was seen",
            )
        st.metric(
            "Per chunk, p95",
            words.duration(row["chunk_p95_ns"]),
            f"longest gap, p95 {words.duration(row['gap_p95_ns'])}",
            delta_color="off",
            delta_arrow="off",
            border=True,
            help="Mean time between two pieces of a streamed response, at the 95th percentile of requests. Below: the "
            "longest time between two of them, at the 95th percentile too; a request's page has its own",
        )
        st.metric(
            "Exact evidence",
            words.share(row["exact"], row["requests"]),
            words.counted(int(row["retransmits"]), "retransmit"),
            delta_color="off",
            delta_arrow="off",
            border=True,
            help="Requests whose client's and server's sides are joined by an id that both carry, or of which one side "
            "alone was seen; others are joined by addresses and time. Below: segments that were sent again",
        )


def _scatter(asked: dict[str, Any], measure: str, summary: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw each request as a point; return the points picked and the others."""
    found = read.frame("request_search", **asked, **read.EVERY, order="-start_ns", limit=POINTS)
    found = found[found[f"{measure}_ns"].notna()].reset_index(drop=True)
    failed = (found["status"].fillna(0) >= 400) | (found["grpc_status"].fillna(0) > 0) | (found["ended_by"] == "abort")
    traces: list[Any] = [
        go.Scattergl(
            x=state.local(found["start_ns"][mask]),
            y=found[f"{measure}_ns"][mask].astype(float) / 1e6,
            mode="markers",
            name=name,
            customdata=found.index[mask],
            marker={"size": size, "opacity": opacity, "color": colour, "symbol": symbol},
            hovertemplate="%{y:.1f} ms<br>%{x}<extra></extra>",
        )
        for name, mask, colour, symbol, size, opacity in (
            ("answered", ~failed, theme.SERIES[0], "circle", 5, 0.7 if len(found) < MANY else 0.45),
            ("failed", failed, theme.SERIES[1], "x", 8, 1),
        )
        if mask.any()
    ]
    # A trace and no shape: a shape's line on a log axis throws the axis out.
    ends = [state.local(found["start_ns"]).min(), state.local(found["start_ns"]).max()]
    for (name, colour), dash in zip(PERCENTILES.items(), ("dot", "dash", "dashdot"), strict=True):
        level = float(summary[f"{measure}_{name}_ns"]) / 1e6
        traces.append(
            go.Scattergl(
                x=ends,
                y=[level] * 2,
                mode="lines",
                name=name,
                line={"dash": dash, "width": 3, "color": colour},
                hovertemplate=f"{name}: {words.duration(level * 1e6)}<extra></extra>",
            )
        )
    figure = theme.figure(*traces, height=320, dragmode="select", yaxis={**_MS, "title": f"{_said(measure)}, ms"})
    event = st.plotly_chart(
        figure,
        on_select="rerun",
        selection_mode=["box", "lasso", "points"],
        key="scatter",
        config={"displaylogo": False},
        alt="Time of each request over when it began; drag a box to pick requests",
    )
    index = pd.Index([_index(point) for point in event.selection.points if "customdata" in point])
    more = f" The newest {POINTS:,} are drawn." if len(found) >= POINTS - 1 else ""
    st.caption(
        f"Drag a box over requests to list them, and beside the list what sets them apart from all the others.{more}"
    )
    return found.loc[found.index.intersection(index)], found.loc[found.index.difference(index)]


def _index(point: Any) -> int:
    data = point["customdata"]
    return int(data[0] if isinstance(data, list) else data)


def _rates(asked: dict[str, Any], measure: str, summary: pd.Series) -> None:
    since = max(asked.get("since_ns") or 0, int(summary["first_ns"]))
    interval = max((int(summary["last_ns"]) - since) // BARS // state.SECOND_NS, 1) * state.SECOND_NS
    found = read.frame("request_rate", **asked, interval_ns=interval)
    at = state.local(found["start_ns"] + interval // 2)
    ends = state.local(pd.Series([found["start_ns"].min(), found["start_ns"].max() + interval]))
    axis = {"range": [str(each) for each in ends]}
    seconds = interval / state.SECOND_NS
    rate = theme.figure(
        go.Bar(x=at, y=(found["requests"] - found["failed"]) / seconds, name="answered", marker_color=theme.SERIES[0]),
        go.Bar(x=at, y=found["failed"] / seconds, name="failed", marker_color=theme.SERIES[1]),
        height=125,
        barmode="stack",
        bargap=0.08,
        xaxis={**axis, "showticklabels": False},
        yaxis={"title": "requests/s", "automargin": False},
    ).update_layout(margin={**_BESIDE, "b": 4})
    st.plotly_chart(rate, key="rate", config={"displayModeBar": False}, alt="Requests a second over time")
    said = _said(measure)
    lines = [
        go.Scatter(
            x=at,
            y=found[f"{measure}_{name}_ns"].astype(float) / 1e6,
            name=name,
            mode="lines",
            line={"width": 2, "color": colour},
            hovertemplate=f"{name}: %{{y:,.1f}} ms<br>%{{x}}<extra></extra>",
        )
        for name, colour in PERCENTILES.items()
    ]
    yaxis = {"title": f"{said}, ms", "rangemode": "tozero", "tickformat": ",", "automargin": False}
    figure = theme.figure(*lines, height=190, xaxis=axis, yaxis=yaxis).update_layout(margin=_BESIDE)
    st.plotly_chart(
        figure, key="percentiles", config={"displayModeBar": False}, alt="Percentiles of the time over time"
    )


def _said(measure: str) -> str:
    return next(name for name, key in TIMES.items() if key == measure)


def _exemplars(picked: tuple[pd.DataFrame, pd.DataFrame], measure: str) -> None:
    chosen, others = picked
    title = f"{len(chosen):,} picked requests" if len(chosen) else f"Slowest requests by {_said(measure)}"
    shown = _slowest(chosen if len(chosen) else others, measure)
    if not len(chosen):
        st.subheader(title)
        return _list(shown)
    table, why = st.columns([3, 2])
    with table:
        st.subheader(title)
        _list(shown)
    with why:
        st.subheader("What differs")
        ranked = differs.rank(chosen, others)
        if ranked.empty:
            st.caption("Nothing that is known of these requests tells them from the others.")
            return
        bar = st.column_config.ProgressColumn("Difference", min_value=0.0, max_value=1.0, format="percent")
        parts.table(
            ranked,
            column_config={"difference": bar},
            height=380,
            alt="Properties that tell the picked requests from the others",
        )


def _slowest(found: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the slowest 100, by duration of the longer of both ends: what was lost on the way shows at the client alone."""
    ends = ["duration_ns", "client_duration_ns"] if measure == "duration" else [f"{measure}_ns"]
    longest = found[ends].astype("Float64").max(axis="columns")
    return found.loc[longest.nlargest(100).index]


def _list(shown: pd.DataFrame) -> None:
    table = pd.DataFrame(
        {
            "": [parts.request_link(uid) for uid in shown["request_uid"]],
            "Began": state.local(shown["start_ns"]),
            "Outcome": [words.outcome(*each)[0] for each in zip(*(shown[name] for name in words.OUTCOME), strict=True)],
            "First byte": shown["ttft_ns"].map(words.duration),
            "Duration": shown["duration_ns"].map(words.duration),
            "At its client": shown["client_duration_ns"].map(words.duration),
            "Pod or node": shown["pod"].fillna(shown["node"]),
            "Request": shown["path"],
            "Evidence": shown["evidence"],
        }
    )
    columns = {
        "": st.column_config.LinkColumn("", display_text="timeline", width="small"),
        "Began": st.column_config.DatetimeColumn(format="MMM D HH:mm:ss.SSS"),
        "Duration": st.column_config.TextColumn(help="At its server; at its client where no server was seen"),
        "At its client": st.column_config.TextColumn(help="From the client's socket, where that was watched"),
    }
    parts.table(table, height=380, column_config=columns, alt="The requests of the chart, the slowest first")


show()
