"""Cold starts: from a pod's creation to its first token, stage by stage; and how what serves models was scaled."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import parts, read, scaling, state, theme, words

STAGES = (
    ("waits for a node", "schedule_wait_ns", "Until the scheduler found it a node"),
    ("sandbox", "sandbox_ns", "Until its network and volumes stand"),
    ("image: queue", "pull_queue_ns", "It waited while the node pulled other images"),
    ("image: pull", "pull_ns", "The image itself"),
    ("create", "create_ns", "The container is made"),
    ("start", "start_taken_ns", "The container starts"),
    ("load", "load_ns", "Weights, compiling, CUDA graphs: until it says that it is ready"),
    ("idle", "idle_ns", "Ready, and waits for a first request"),
)
"""A stage's name, its column, and what goes on in it."""


def show() -> None:
    """Show the page."""
    st.title("Cold starts")
    chosen = state.controls("24h")
    parts.live(_body, chosen)


def _body(chosen: state.Range) -> None:
    _stages(chosen)
    scaling.show(chosen)


def _stages(chosen: state.Range) -> None:
    found = read.frame("cold_start")
    known = found[[key for _, key, _ in STAGES]].notna().any(axis=1) if len(found) else pd.Series([], dtype=bool)
    found = found[known].sort_values("total_ns", ascending=False, na_position="last")
    if found.empty:
        parts.nothing(
            "No cold start is on record",
            "Stages come from Kubernetes Events and pod states (source `cluster_state`, of the cluster's collector) "
            "and from the container runtime (source `container_events`).",
            "[Pipeline health](/health) says whether they run.",
            icon=":material/ac_unit:",
        )
        return
    found = within(found, chosen).head(60)
    if found.empty:
        st.caption(f"No pod began in {chosen.said}: *all* above shows every cold start on record.")
        return
    names = [f"{row['namespace'] or ''}/{row['pod']}" for _, row in found.iterrows()]
    bars = [
        go.Bar(
            orientation="h",
            name=title,
            y=names,
            x=found[key].astype("Float64").fillna(0).clip(lower=0) / 1e9,
            marker_color=colour,
            hovertemplate=f"{title} %{{x:.2f}} s<br>{what}<extra></extra>",
        )
        for (title, key, what), colour in zip(STAGES, theme.SERIES, strict=True)
        if (found[key].fillna(0) > 0).any()
    ]
    figure = theme.figure(
        *bars,
        height=140 + 30 * len(found),
        barmode="stack",
        xaxis={"title": "seconds since the pod was made"},
        yaxis={"autorange": "reversed", "automargin": True},
    )
    st.plotly_chart(figure, config={"displayModeBar": False}, alt="Stages of each cold start")
    table = pd.DataFrame(
        {"Pod": names, "First token": found["total_ns"].map(words.duration)},
    )
    for title, key, _ in STAGES:
        table[_capital(title)] = found[key].map(words.duration).to_numpy()
    table["Image"] = found["image_bytes"].map(words.size).to_numpy()
    table["Was there"] = found["image_present"].map({True: "yes", False: "no"}).to_numpy()
    table["Model"], table["Node"] = found["model"].to_numpy(), found["node"].to_numpy()
    table["Why it waited"] = found["why_not_scheduled"].to_numpy()
    help_ = {_capital(title): st.column_config.TextColumn(help=what) for title, _, what in STAGES}
    help_["First token"] = st.column_config.TextColumn(
        help="From the pod's creation to the first token it sent; – until then"
    )
    help_["Was there"] = st.column_config.TextColumn(help="Whether the node had the image already")
    parts.table(table, column_config=help_, alt="Stages of each cold start, as a table")
    st.caption("Kubelet's times are whole seconds: a stage may seem to take 0 s, or one second more than it did.")
    parts.download(found, "cold-starts")


def within(found: pd.DataFrame, chosen: state.Range) -> pd.DataFrame:
    """Return the cold starts of a range: whose pod was made, or as much as is known of it began, in the range.

    Of some only a pull's length is known, and no moment: they are among all.
    """
    if not chosen.bounds:
        return found
    began = found["created_ns"].fillna(found["scheduled_ns"]).fillna(found["started_ns"]).fillna(found["ready_ns"])
    inside = began >= (chosen.since_ns or 0)
    return found[inside if chosen.until_ns is None else inside & (began < chosen.until_ns)]


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


show()
