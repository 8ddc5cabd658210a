"""A flame graph of GPU time: all of it, its classes, and in each its kernels by name."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import theme, words

_MOST_NAMES = 60
"""Names of a class that are drawn; the rest are drawn as one, for a thousand slivers say nothing."""
_CHARACTERS = 150
"""Characters that fit beside each other over the whole width of a page of 1,280 pixels."""


def show(found: pd.DataFrame, whole: str, key: str, alt: str) -> None:
    """Draw rows of kernel_class, name (NULL where unknown), total_ns and executions; `whole` names their sum."""
    rows = _few(found.assign(kernel_class=found["kernel_class"].fillna("other")))
    classes = rows.groupby("kernel_class", sort=False)[["total_ns", "executions"]].sum()
    classes = classes.sort_values("total_ns", ascending=False)
    whole_ns = float(rows["total_ns"].sum()) or 1.0
    # A parent is exactly the sum of its parts, as the chart demands of `branchvalues`.
    nanoseconds = [classes["total_ns"].sum(), *classes["total_ns"], *rows["total_ns"]]
    kinds = ["", *classes.index, *rows["kernel_class"]]
    icicle = go.Icicle(
        ids=["all", *classes.index, *(rows["kernel_class"] + "/" + rows["name"])],
        labels=[
            *_labels([whole], [whole_ns], whole_ns),
            *_labels(classes.index, classes["total_ns"], whole_ns),
            *_labels(rows["name"], rows["total_ns"], whole_ns),
        ],
        parents=["", *["all"] * len(classes), *rows["kernel_class"]],
        values=nanoseconds,
        branchvalues="total",
        customdata=[
            (words.duration(each), words.share(each, nanoseconds[0]), words.count(count), name)
            for each, count, name in zip(
                nanoseconds,
                [rows["executions"].sum(), *classes["executions"], *rows["executions"]],
                [whole, *classes.index, *rows["name"]],
                strict=True,
            )
        ],
        textinfo="label",
        hovertemplate="%{customdata[3]}<br>%{customdata[0]}, %{customdata[1]}, %{customdata[2]} executions<extra></extra>",
        marker={"colors": [theme.CLASSES.get(each, theme.CLASSES["other"]) for each in kinds]},
        textfont={"color": [theme.INK_ON.get(each, theme.INK_ON["other"]) for each in kinds]},
        leaf={"opacity": 1},
        tiling={"orientation": "v", "pad": 1},
        pathbar={"visible": True, "thickness": 22},
        sort=True,
    )
    figure = theme.figure(icicle, height=250, uniformtext={"minsize": 11, "mode": "hide"})
    figure.update_layout(margin={"l": 0, "r": 0, "t": 26, "b": 4})
    st.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt=alt)


def _labels(names: Iterable[str], times_ns: Iterable[float], whole_ns: float) -> list[str]:
    """Return what of each name fits into its part of the width, with its time where that does too.

    A chart hides a label that does not fit as a whole.
    """
    return [
        _label(name, time_ns, int(_CHARACTERS * time_ns / whole_ns))
        for name, time_ns in zip(names, times_ns, strict=True)
    ]


def _label(name: str, time_ns: float, most: int) -> str:
    timed = f"{name} {words.duration(time_ns)}"
    return timed if len(timed) <= most else words.shortened(name, most) if most > 3 else ""


def _few(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row a class and name, the smallest names of a class as one."""
    named = found.assign(name=found["name"].fillna("no execution on record"))
    rank = named.groupby("kernel_class")["total_ns"].rank(ascending=False, method="first")
    named["name"] = named["name"].where(rank <= _MOST_NAMES, "all others")
    summed = named.groupby(["kernel_class", "name"], as_index=False)[["total_ns", "executions"]].sum()
    return summed.astype({"total_ns": float}).sort_values("total_ns", ascending=False, ignore_index=True)
