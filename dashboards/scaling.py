"""What serves models and how it was scaled, on the page Cold starts: KServe, Knative and KEDA, by their custom objects."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import parts, read, state, theme, words

_STEPS = {
    "woken": ("triangle-up", "#009E73"),
    "scaled up": ("triangle-up", "#0072B2"),
    "scaled down": ("triangle-down", "#E69F00"),
    "put to sleep": ("triangle-down", "#8A8F98"),
    "scaled": ("circle", "#CC79A7"),
}
"""A step of view `scaling` → its mark and colour."""


def show(chosen: state.Range) -> None:
    """Show what serves models now, the replicas over time, and each step of scaling with its reason."""
    states = read.table("service_state", **chosen.bounds, order="time_ns", limit=20_000)
    steps = read.frame("scaling", **chosen.bounds)
    st.subheader("Services")
    if states.empty and steps.empty:
        parts.nothing(
            f"Nothing is known of services or scaling in {chosen.said}",
            *parts.elsewhere("cold_starts", chosen, "service_state", "cluster_event"),
            "Services come from KServe's, Knative's and KEDA's custom objects (source `cluster_state`, of the cluster's "
            "collector), steps of scaling also from Kubernetes Events.",
            "[Pipeline health](/health) says whether it runs.",
            icon=":material/dns:",
        )
        return
    if not states.empty:
        _services(states)
    st.subheader("Scaling")
    if steps.empty:
        st.caption(f"Nothing was scaled in {chosen.said}.")
        return
    _chart(states, steps)
    _steps(steps)


def _services(states: pd.DataFrame) -> None:
    keys = ["kind", "namespace", "object", "revision", "role"]
    newest = states.groupby(keys, dropna=False, as_index=False).last()
    newest = newest[~newest["deleted"].fillna(False).astype(bool)]
    table = pd.DataFrame(
        {
            "Kind": newest["kind"],
            "Name": newest["namespace"].fillna("") + "/" + newest["object"].fillna(newest["revision"]).fillna(""),
            "Revision or role": newest["revision"].fillna(newest["role"]),
            "Model": newest["model"],
            "Version": newest["model_version"],
            "Ready": newest["ready"].map({True: "ready", False: "not ready"}),
            "Active": newest["active"].map({True: "active", False: "scaled to zero"}),
            "Replicas": [
                _of(have, want) for have, want in zip(newest["replicas"], newest["desired_replicas"], strict=True)
            ],
            "Bounds": [
                _bounds(low, high) for low, high in zip(newest["least_replicas"], newest["most_replicas"], strict=True)
            ],
            "Traffic": newest["traffic_ratio"].astype(float),
            "Scales": newest["target"],
            "By": newest["triggers"],
            "Why": newest["reason"],
            "Said": state.local(newest["time_ns"]),
        }
    )
    columns = {
        "Traffic": st.column_config.NumberColumn(format="percent"),
        "Said": st.column_config.DatetimeColumn("Last word", format="MMM D HH:mm:ss"),
    }
    shown = table.dropna(axis="columns", how="all")
    parts.table(shown, column_config=columns, alt="What serves models, in its last known state")


def _of(have: object, want: object) -> str | None:
    if words.missing(have) and words.missing(want):
        return None
    return (
        words.count(have) if words.missing(want) or have == want else f"{words.count(have)}, wants {words.count(want)}"
    )


def _bounds(low: object, high: object) -> str | None:
    return None if words.missing(low) and words.missing(high) else f"{words.count(low)} to {words.count(high)}"


def _name(row: pd.DataFrame) -> pd.Series:
    return row["revision"].fillna(row["target"]).fillna(row["object"]).fillna("unnamed").astype(str)


def _chart(states: pd.DataFrame, steps: pd.DataFrame) -> None:
    """Draw replicas as they were wanted, and a mark at each step."""
    wanted = states.assign(size=states["desired_replicas"].fillna(states["replicas"])) if len(states) else states
    wanted = wanted[wanted["size"].notna()] if len(wanted) else wanted
    lines = [
        go.Scatter(
            x=state.local(group["time_ns"]),
            y=group["size"].astype(float),
            mode="lines",
            line={"shape": "hv", "color": colour},
            name=str(name),
            hovertemplate=f"{name}: %{{y}} at %{{x}}<extra></extra>",
        )
        for (name, group), colour in zip(wanted.groupby(_name(wanted)), theme.SERIES * 8, strict=False)
    ]
    sized = steps[steps["to_replicas"].notna()]
    marks = [
        go.Scatter(
            x=state.local(group["time_ns"]),
            y=group["to_replicas"].astype(float),
            mode="markers",
            marker={"symbol": symbol, "color": colour, "size": 11},
            name=step,
            customdata=_name(group) + "<br>" + group["reason"].fillna(""),
            hovertemplate=f"{step} to %{{y}}: %{{customdata}}<extra></extra>",
        )
        for step, (symbol, colour) in _STEPS.items()
        if len(group := sized[sized["step"] == step])
    ]
    figure = theme.figure(*lines, *marks, height=240, yaxis={"title": "replicas", "rangemode": "tozero"})
    st.plotly_chart(figure, key="replicas", config={"displayModeBar": False}, alt="Replicas over time")


def _steps(steps: pd.DataFrame) -> None:
    newest = steps.sort_values("time_ns", ascending=False)
    table = pd.DataFrame(
        {
            "When": state.local(newest["time_ns"]),
            "Step": newest["step"],
            "What": newest["kind"].fillna("") + " " + newest["namespace"].fillna("") + "/" + _name(newest),
            "From": newest["from_replicas"],
            "To": newest["to_replicas"],
            "Why": newest["reason"],
        }
    )
    when = st.column_config.DatetimeColumn(format="MMM D HH:mm:ss")
    why = st.column_config.TextColumn(width="large")
    parts.table(table, column_config={"When": when, "Why": why}, alt="Steps of scaling, newest first")
    parts.download(newest, "scaling")
