"""The map of the page GPUs: one row a GPU, one column an interval, and under it the mean from which one picks a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import measures, state, theme

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
HINT = "Drag a box over the mean to list the requests that ran then."
COLUMNS = 120
"""Intervals of the map, about."""
TOPS = (1, 2, 5, 10, 25, 50, 100)
"""Where the colours of a share may end, in percent: those of a GPU that idles all the time would all be one."""
RIGHT = 84
"""Room, in pixels, for the scale of colours on the right of both charts."""
MOST_CELLS = 400_000
"""Gaps are drawn as gaps, unless their columns would make the map larger than this."""


def interval_ns(lasted_ns: int, readings: float) -> int:
    """Return an interval of whole seconds for the readings of one GPU: a 120th of their time, more where they are fewer."""
    apart_ns = lasted_ns / max(readings - 1, 1)
    least_ns = max(lasted_ns / COLUMNS, 1.5 * apart_ns)
    return max(math.ceil(least_ns / state.SECOND_NS), 1) * state.SECOND_NS


def draw(cells: pd.DataFrame, step_ns: int, title: str, unit: str) -> tuple[int, int] | None:
    """Draw rows of gpu (its name), start_ns and value, in the order of their GPUs; return the window picked, in node time.

    A cell without a row was not read, and stays empty.
    """
    names, starts, values = _grid(cells, step_ns)
    scale = measures.axis(unit, float(np.nanmax(np.abs(values), initial=0)))
    edges = np.append(starts, starts[-1] + step_ns)
    # One margin and one range for both: a moment of the mean stands under the same moment of the map.
    layout = {
        "margin": {**theme.chart()["margin"], "l": _left(names), "r": RIGHT},
        "xaxis": {"range": [str(each) for each in state.local(pd.Series([edges[0], edges[-1]]))]},
    }
    _heat(names, values, edges, title, unit, scale, layout)
    picked = _mean(pd.DataFrame(values, columns=starts).mean(), step_ns, title, unit, scale, layout)
    return (min(picked), max(picked) + step_ns) if picked else None


def idle_between(cells: pd.DataFrame, step_ns: int) -> pd.DataFrame:
    """Return cells with a value of 0 wherever a GPU has none between its first and its last: nothing was seen to run."""
    spans = cells.groupby("gpu", sort=False)["start_ns"].agg(["min", "max"])
    if int(((spans["max"] - spans["min"]) // step_ns + 1).sum()) > MOST_CELLS:
        return cells
    whole = [(gpu, at) for gpu, low, high in spans.itertuples() for at in range(low, high + 1, step_ns)]
    every = pd.DataFrame(whole, columns=["gpu", "start_ns"])
    return every.merge(cells[["gpu", "start_ns", "value"]], how="left").fillna({"value": 0.0})


def _grid(cells: pd.DataFrame, step_ns: int) -> tuple[list[str], Times, Values]:
    """Return the GPUs' names, where each column begins, and the value of each cell, NaN where it has none."""
    row, names = pd.factorize(cells["gpu"])
    at = cells["start_ns"].to_numpy(np.int64)
    starts = np.arange(int(at.min()), int(at.max()) + 1, step_ns)
    if len(starts) * len(names) > MOST_CELLS:
        starts = np.unique(at)
    # A heatmap widens the cells beside a gap until they meet: columns without a reading have to be there.
    values = np.full((len(names), len(starts)), np.nan)
    values[row, np.searchsorted(starts, at, "right") - 1] = cells["value"].to_numpy(float)
    return list(names), starts, values


def _left(names: list[str]) -> int:
    """Return the room, in pixels, that names of GPUs need on the left of both charts."""
    return min(max(20 + round(5.7 * max(map(len, names))), 70), 420)


def _heat(
    names: list[str],
    values: Values,
    edges: Times,
    title: str,
    unit: str,
    scale: tuple[float, str],
    layout: dict[str, Any],
) -> None:
    share = unit == "1"
    greatest = float(np.nanmax(values, initial=0))
    heat = go.Heatmap(
        z=values / scale[0],
        x=state.local(pd.Series(edges)),
        y=names,
        text=[[measures.said(each, unit) for each in row] for row in values],
        colorscale=theme.HEAT,
        # From nothing on, whatever the measure: from the least on, a ripple of 1 % would look like one of all of it.
        zmin=min(0.0, float(np.nanmin(values, initial=0)) / scale[0]),
        zmax=next((each for each in TOPS if each >= 100 * greatest), 100) if share else greatest / scale[0] or 1.0,
        ygap=1,
        hoverongaps=False,
        colorbar={"thickness": 12, "title": {"text": scale[1], "side": "top"}, "outlinewidth": 0},
        hovertemplate="%{y}<br>%{x}<br>%{text}<extra></extra>",
    )
    height = min(90 + 26 * max(len(names), 3), 900)
    yaxis = {"autorange": "reversed", "automargin": False, "type": "category"}
    figure = theme.figure(heat, height=height, yaxis=yaxis).update_layout(**layout)
    st.plotly_chart(figure, key="heat", config={"displayModeBar": False}, alt=f"{title} of each GPU over time")


def _mean(
    mean: pd.Series, step_ns: int, title: str, unit: str, scale: tuple[float, str], layout: dict[str, Any]
) -> list[int]:
    """Draw the mean of all GPUs; return the intervals picked. A heatmap has no points to pick: this line has."""
    middle = pd.Series(mean.index) + step_ns // 2
    line = go.Scatter(
        x=state.local(middle),
        y=mean / scale[0],
        mode="lines+markers",
        marker={"size": 4},
        line={"color": theme.SERIES[0]},
        name="mean",
        customdata=list(mean.index),
        text=[measures.said(each, unit) for each in mean],
        hovertemplate="%{text}<br>%{x}<extra></extra>",
    )
    # A time is picked: a drag counts for its width, wherever the line stands.
    axis = {"title": f"mean, {scale[1]}", "rangemode": "tozero", "exponentformat": "e", "automargin": False}
    event = st.plotly_chart(
        theme.figure(line, height=160, dragmode="select", selectdirection="h", yaxis=axis).update_layout(**layout),
        key="mean",
        on_select="rerun",
        selection_mode=["box"],
        config={"displaylogo": False},
        alt=f"Mean of {title}; drag a box to list the requests of that time",
    )
    data = [point["customdata"] for point in event.selection.points]
    return [int(each[0] if isinstance(each, list) else each) for each in data]
