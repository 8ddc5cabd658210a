"""One request against its like, on the page Compare: the answered requests of its path around it, down to kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import parts, read, state, theme, words

Fact = tuple[str, str, Callable[[Any], str]]
"""A fact's name, its column, and what says its value."""
LEAST, MOST = 5, 50
"""With fewer no percentile is told; the kernels of so many, the nearest in time, are added up."""
HOUR_NS = 3600 * state.SECOND_NS


def show(row: pd.Series, facts: Sequence[Fact]) -> None:
    """Show where a request stands among its like, by facts, by class of kernel and by kernel."""
    others = like(row, HOUR_NS)
    if len(others) < LEAST:
        parts.nothing(
            "It has no like to compare with",
            f"Only {len(others)} other requests of `{row['path']}` within an hour of it are known.",
            "Name a second request above, or wait for more.",
        )
        return
    link, began = parts.request_link(str(row["request_uid"])), state.said(int(row["start_ns"]))
    st.markdown(
        f"[{row['method']} {row['path']}]({link}) {words.duration(row['duration_ns'])} · {began} · "
        f"Against **{len(others):,}** answered requests of its path within an hour of it."
    )
    left, right = st.columns([3, 2])
    with left:
        _facts(row, others, facts)
    with right, st.spinner(f"Adding up the kernels of {min(len(others), MOST)} requests …", show_time=True):
        table, count = against(str(row["request_uid"]), _each(row, others))
        if table.empty or count < LEAST:
            return _unknown(table, count)
        _classes(table)
    st.subheader("Down to its kernels")
    _names(table, count)


def like(row: pd.Series, within_ns: int) -> pd.DataFrame:
    """Return the answered requests of a request's path and model that began within a time of it, without itself."""
    start = int(row["start_ns"])
    found = read.frame(
        "request_search",
        **{**read.EVERY, "path": str(row["path"]), "outcome": "ok"},
        since_ns=start - within_ns,
        until_ns=start + within_ns,
        order="-start_ns",
        limit=5000,
    )
    found = found[found["request_uid"] != row["request_uid"]]
    return found if words.missing(row["model"]) else found[found["model"].isna() | (found["model"] == row["model"])]


def _facts(row: pd.Series, others: pd.DataFrame, facts: Sequence[Fact]) -> None:
    rows = []
    for name, key, say in facts:
        values = others[key].dropna().astype(float)
        if words.missing(row[key]) or values.empty:
            continue
        rows.append((name, say(row[key]), say(values.median()), say(values.quantile(0.95)), _rank(row[key], values)))
    parts.table(
        pd.DataFrame(rows, columns=["Fact", "This one", "Median", "p95", "at"]),
        column_config={"at": _bar("More than … of them")},
        alt="Where the request stands among its like",
    )


def _bar(title: str) -> Any:
    return st.column_config.ProgressColumn(title, min_value=0, max_value=100, format="%.0f %%")


def _rank(own: Any, values: pd.Series) -> float:
    """Return how many of 100 values are less than one's own; half of those that equal it."""
    return float(100 * ((values < float(own)).mean() + (values == float(own)).mean() / 2))


def _each(row: pd.Series, others: pd.DataFrame) -> pd.DataFrame:
    """Return what the request and the nearest of its like were given of each kernel."""
    near = others.iloc[(others["start_ns"] - row["start_ns"]).abs().argsort()[:MOST]]
    ends = pd.concat([near["end_ns"].dropna(), pd.Series([row["end_ns"]])])
    return read.frame(
        "request_kernel_each",
        requests=" ".join([str(row["request_uid"]), *near["request_uid"]]),
        since_ns=min(int(row["start_ns"]), int(near["start_ns"].min())),
        until_ns=int(ends.max()),
    )


def against(own: str, found: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return a request's kernels beside its like's, what took longest beyond their median first, and how many they are.

    `found` has rows of view `request_kernel_each`, `own` is the request's uid; times are in ns, shares of the request's own
    GPU time in 0–1. A kernel that one of them did not run counts as nothing there.
    """
    keys = ["kernel_class", "name"]
    named = found.assign(name=found["name"].fillna("no execution on record"), share_ns=found["share_ns"].astype(float))
    times = named.pivot_table(index=keys, columns="request_uid", values="share_ns", aggfunc="sum", fill_value=0.0)
    if own not in times:
        return pd.DataFrame(), 0
    like = times.drop(columns=own)
    shares = times / times.sum().clip(lower=1)
    table = pd.DataFrame(
        {
            "own": times[own],
            "median": like.median(axis=1),
            "p95": like.quantile(0.95, axis=1),
            "rank": [_rank(times.at[each, own], like.loc[each]) for each in times.index],
            "own_share": shares[own],
            "median_share": shares.drop(columns=own).median(axis=1),
        }
    )
    table = table.assign(more=table["own"] - table["median"])
    return table.sort_values(["more", "own"], ascending=False).reset_index(), like.shape[1]


def _unknown(table: pd.DataFrame, count: int) -> None:
    """Say why no kernels are compared."""
    if table.empty:
        parts.nothing(
            "No GPU time is attributed to this request",
            "Its engine's steps must be known (the vLLM plugin, or the engine wire), and its GPUs watched.",
            "[Pipeline health](/health) says which sources run.",
            icon=":material/memory:",
        )
    else:
        parts.nothing(
            "What its like take of the GPUs is not known",
            f"Which kernels ran is known for {count} of the {MOST} nearest in time, and at least {LEAST} are needed.",
            "Their engine's steps must be known (the vLLM plugin, or the engine wire), and its GPUs watched.",
        )


def _classes(table: pd.DataFrame) -> None:
    by = table.groupby("kernel_class")[["own", "median"]].sum().sort_values("own")
    bars = [
        go.Bar(
            orientation="h",
            y=by.index,
            x=by[key] / 1e6,
            name=title,
            marker_color=colour,
            hovertemplate=f"{title}, %{{y}}: %{{x:.3f}} ms<extra></extra>",
        )
        for key, title, colour in (("median", "its like, median", "#8A8F98"), ("own", "this one", theme.SERIES[1]))
    ]
    figure = theme.figure(
        *bars, height=110 + 27 * len(by), xaxis={"title": "GPU time, ms"}, yaxis={"automargin": True}, bargap=0.3
    )
    figure.update_layout(legend={"traceorder": "reversed"})
    st.plotly_chart(
        figure, key="classes", config={"displayModeBar": False}, alt="GPU time by class of kernel, beside its like"
    )


def _names(table: pd.DataFrame, count: int) -> None:
    shown = pd.DataFrame(
        {
            "Kernel": table["name"],
            "Class": table["kernel_class"],
            "This one": table["own"].map(words.duration),
            "Median": table["median"].map(words.duration),
            "p95": table["p95"].map(words.duration),
            "Longer by": table["more"].map(words.change),
            "at": table["rank"],
            "Of its GPU time": table["own_share"],
            "Of theirs": table["median_share"],
        }
    )
    percent = st.column_config.NumberColumn(format="percent", width="small")
    parts.table(
        shown,
        height=min(38 + 35 * len(shown), 420),
        column_config={"at": _bar("More than … of them"), "Of its GPU time": percent, "Of theirs": percent},
        alt="Kernels of the request beside its like's",
    )
    st.caption(
        f"Its share of each kernel beside the shares of the {count} of its like that are nearest in time; "
        "one that ran none of a kernel counts with 0."
    )
    parts.download(table, "kernels-beside-its-like")
