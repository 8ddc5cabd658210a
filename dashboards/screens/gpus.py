"""GPUs: every GPU and MIG instance over time, one measure at a glance; which requests ran then, and whose GPU it was."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import parts, read, state, theme, words

COLUMNS = 120
"""Intervals of the heatmap, about."""

FIRST = ("warpline.gpu.sm.active", "hw.gpu.utilization", "hw.power")
"""Measures to begin with, the best first."""


def show() -> None:
    """Show the page."""
    st.title("GPUs")
    chosen = state.controls("15m")
    parts.live(_body, chosen)


def _body(chosen: state.Range) -> None:
    metrics = read.frame("gpu_metric", **chosen.bounds)
    if metrics.empty:
        parts.nothing(
            f"No GPU has readings in the range *{chosen.name}*",
            "Choose a longer time range above.",
            "Readings come from the sources `dcgm` (NVIDIA's or AMD's exporter): see Pipeline health.",
            "Without an exporter, GPU work is still known where the CUPTI library is injected.",
            icon=":material/memory:",
        )
        return
    names = [_name(row["metric"], row["part"]) for _, row in metrics.iterrows()]
    default = next((names.index(each) for each in FIRST if each in names), 0)
    picked = st.selectbox("Measure", names, index=default, key="metric", bind="query-params")
    row = metrics.iloc[names.index(picked)]
    found = read.frame(
        "gpu_heat",
        **chosen.bounds,
        metric=row["metric"],
        part="-" if words.missing(row["part"]) else row["part"],
        interval_ns=_interval(chosen),
    )
    parts.simulated_notice(bool(found["simulated"].fillna(False).any()))
    window = _heatmap(found, picked)
    called = dict(zip(found["gpu_uuid"], found.apply(_title, axis=1), strict=True))
    _shares(chosen, called)
    _account(chosen, called)
    _requests(window)


def _name(metric: str, part: object) -> str:
    return metric if words.missing(part) else f"{metric} · {part}"


def _interval(chosen: state.Range) -> int:
    since, until = chosen.since_ns, chosen.until_ns
    if since is None:
        return 60 * state.SECOND_NS
    lasted = (until or state.window("5m").since_ns or 0) - since + (0 if until else 300 * state.SECOND_NS)
    return max(lasted // COLUMNS // state.SECOND_NS, 1) * state.SECOND_NS


def _title(row: pd.Series) -> str:
    number = row["gpu_uuid"] if words.missing(row["index"]) else f"GPU {row['index']}"
    instance = "" if words.missing(row["gpu_instance"]) else f" · MIG {row['gpu_instance']}"
    return f"{row['node']} · {number}{instance}"


def _named(uuids: pd.Series, names: dict[str, str]) -> pd.Series:
    """Return GPUs as the heatmap calls them, by their UUIDs where it does not show them."""
    return uuids.map(names).fillna(uuids)


def _heatmap(found: pd.DataFrame, title: str) -> tuple[int, int] | None:
    """Draw the heatmap; return the window of the cells picked, in node time."""
    labels = found.apply(_title, axis=1)
    grid = found.assign(gpu=labels).pivot_table(index="gpu", columns="start_ns", values="value", sort=True)
    at = state.local(pd.Series(grid.columns))
    ratio = title.startswith(("warpline.gpu.sm", "hw.gpu.utilization")) or "active" in title or "utilization" in title
    heat = go.Heatmap(
        z=grid.to_numpy(float),
        x=at,
        y=grid.index,
        colorscale="Cividis",
        zmin=0 if ratio else None,
        zmax=1 if ratio else None,
        colorbar={"thickness": 12, "tickformat": ".0%" if ratio else ".3s"},
        hovertemplate="%{y}<br>%{x}<br>%{z:.4g}<extra></extra>",
    )
    height = min(120 + 26 * len(grid), 900)
    figure = theme.figure(heat, height=height, yaxis={"autorange": "reversed", "automargin": True})
    # A heatmap has no points to pick: this line of its intervals, under it, has.
    mean = grid.mean(axis=0)
    line = go.Scatter(
        x=at,
        y=mean,
        mode="lines+markers",
        marker={"size": 4},
        line={"color": theme.SERIES[0]},
        name="mean",
        customdata=list(grid.columns),
    )
    st.plotly_chart(figure, key="heat", config={"displayModeBar": False}, alt=f"{title} of each GPU over time")
    event = st.plotly_chart(
        theme.figure(
            line,
            height=150,
            dragmode="select",
            yaxis={"title": "mean", "rangemode": "tozero", "tickformat": ".0%" if ratio else ".3s"},
        ),
        key="mean",
        on_select="rerun",
        selection_mode=["box"],
        config={"displaylogo": False},
        alt=f"Mean of {title}; drag a box to list the requests of that time",
    )
    starts = [
        int(data[0] if isinstance(data, list) else data)
        for data in (point["customdata"] for point in event.selection.points)
    ]
    step = int(grid.columns[1] - grid.columns[0]) if grid.shape[1] > 1 else state.SECOND_NS
    return (min(starts), max(starts) + step) if starts else None


def _shares(chosen: state.Range, names: dict[str, str]) -> None:
    found = read.frame("gpu_pod", **chosen.bounds)
    if found.empty:
        return
    st.subheader("Whose GPU time it was")
    total, counted = found["share_ns"].sum(), (found["requests"], found["bucket"])
    table = pd.DataFrame(
        {
            "GPU": _named(found["gpu_uuid"], names),
            "Pod": found["pod"].where(~found["bucket"], found["pod"] + " (padding, overhead, unattributed)"),
            "GPU time": found["share_ns"].map(words.duration),
            "Of all": found["share_ns"].astype(float) / max(int(total), 1),
            "Energy, J": found["share_j"].astype(float).round(1),
            "Cost": found["cost"],
            "Requests": ["–" if bucket else words.count(each) for each, bucket in zip(*counted, strict=True)],
        }
    ).dropna(axis="columns", how="all")
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    parts.table(table, column_config={"Of all": bar}, alt="GPU time by pod")


def _account(chosen: state.Range, names: dict[str, str]) -> None:
    found = read.frame("gpu_account", **chosen.bounds)
    if found.empty:
        return
    st.subheader("Where the GPUs' time went", help="The rows of a GPU sum to the time that it was watched")
    table = pd.DataFrame(
        {
            "GPU": _named(found["gpu_uuid"], names),
            "Went to": found["went_to"],
            "Time": found["time_ns"].map(words.duration),
            "Of its time": found["time_ns"].astype(float) / found["watched_ns"].clip(lower=1),
            "Cost": found["cost"],
            "Evidence": found["evidence"],
        }
    ).dropna(axis="columns", how="all")
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    parts.table(table, column_config={"Of its time": bar}, alt="Where each GPU's time went")


def _requests(window: tuple[int, int] | None) -> None:
    st.subheader("Requests of that time")
    if window is None:
        st.caption("Drag a box over the mean to list the requests that ran then.")
        return
    everything = {"text": "*", "path": "*", "pod": "*", "outcome": "*", "least_ns": "0", "most_ns": str(1 << 62)}
    # A request may have begun long before: ten minutes cover all but the odd one.
    found = read.frame(
        "request_search",
        **everything,
        since_ns=window[0] - 600 * state.SECOND_NS,
        until_ns=window[1],
        order="-duration_ns",
        limit=1000,
    )
    ran = found[found["end_ns"] >= window[0]]
    st.caption(f"{len(ran)} requests ran between {state.said(window[0])} and {state.said(window[1])}.")
    table = pd.DataFrame(
        {
            "": [parts.request_link(uid) for uid in ran["request_uid"]],
            "Began": state.local(ran["start_ns"]),
            "Duration": ran["duration_ns"].map(words.duration),
            "First byte": ran["ttft_ns"].map(words.duration),
            "Pod or node": ran["pod"].fillna(ran["node"]),
            "Request": ran["path"],
        }
    )
    link = st.column_config.LinkColumn("", display_text="timeline", width="small")
    parts.table(table, column_config={"": link}, alt="Requests that ran in the picked time")


show()
