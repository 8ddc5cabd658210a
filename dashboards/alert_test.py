"""A rule's back-test on the page Alerts: when it would have fired on what is stored, for how long, with which numbers."""

from __future__ import annotations

import re
import time
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import parts, read, state, theme, words

_DAY_NS = 86_400 * state.SECOND_NS
_RANGE = "the time range above"


def show(chosen: state.Range) -> None:
    """Show the choice of a rule, its numbers and a time, and what became of them; all of it is in the address."""
    st.subheader("Back-test: when would a rule have fired?")
    rules = {each["name"]: each for each in read.rules()}
    windows = _windows(chosen)
    left, right = st.columns(2)
    name = left.selectbox("Rule", ["none", *rules], key="rule", bind="query-params")
    over = right.selectbox(
        "On", list(windows), key="on", bind="query-params", help="Opened incidents and sample traces, or live rows"
    )
    if name not in rules:
        if st.session_state.pop("cancelled", False):
            st.caption(":material/close: Cancelled: nothing goes on in the correlator. Choose a rule to try one.")
        return
    rule = rules[name]
    summary = re.sub(r"\{(\w+)[^}]*\}", r"‹\1›", rule["summary"])
    off = "" if rule["in_force"] else " · :gray-badge[off in the settings]"
    held = f"once it held for {words.duration(rule['for_s'] * 1e9)}" if rule["for_s"] else "at once"
    st.caption(f"Fires {held}, as {rule['severity']}: “{summary}” What to do then: {rule['runbook']}{off}")
    numbers = _numbers(rule)
    since, until = windows.get(over, windows[_RANGE])
    _firings(_tested(name, since, until, numbers), (since, until), chosen)


def _tested(name: str, since: int, until: int, numbers: dict[str, float]) -> dict[str, Any]:
    """Return what came of the test; while it goes on, its progress is shown, and one may end it."""
    place = st.empty()
    with place.container(horizontal=True, vertical_alignment="center", key="testing"):
        bar = st.progress(0.0, "Going through the recorded time …")
        st.button("Cancel", on_click=_cancel, icon=":material/close:", key="cancel_test")
    began = time.monotonic()

    def told(share: float) -> None:
        bar.progress(share, f"Going through the recorded time … {time.monotonic() - began:.0f} s")

    found = read.tested(name, since, until, told, **numbers)
    place.empty()
    return found


def _cancel() -> None:
    """Choose no rule: the page runs again, and what it waited for is told that nobody reads on."""
    st.session_state["rule"] = "none"
    st.session_state["cancelled"] = True


def _windows(chosen: state.Range) -> dict[str, tuple[int, int]]:
    """Return what a rule can be tried on, by name: a window of at most a day each."""
    now = time.time_ns() // (60 * state.SECOND_NS) * (60 * state.SECOND_NS)  # The same answer serves for a minute.
    until = now if chosen.until_ns is None else chosen.until_ns
    since = until - _DAY_NS if chosen.since_ns is None else chosen.since_ns // state.SECOND_NS * state.SECOND_NS
    found = {_RANGE: (max(min(since, until - state.SECOND_NS), until - _DAY_NS), until)}
    opened = read.frame("recording_list")
    opened = opened[opened["format"].isin(["incident", "sample_trace"]) & opened["end_ns"].notna()]
    for name, start, end in zip(opened["name"], opened["start_ns"], opened["end_ns"], strict=True):
        found[str(name)] = (int(start), max(min(int(end), int(start) + _DAY_NS), int(start) + state.SECOND_NS))
    return found


def _numbers(rule: dict[str, Any]) -> dict[str, float]:
    if not rule["thresholds"]:
        return {}
    return {
        each["name"]: column.number_input(
            each["name"].replace("_", " "),
            value=float(each["value"]),
            key=f"n_{rule['name']}_{each['name']}",
            help=each["reason"],
        )
        for each, column in zip(rule["thresholds"], st.columns(max(len(rule["thresholds"]), 4)), strict=False)
    }


def _firings(said: dict[str, Any], window: tuple[int, int], chosen: state.Range) -> None:
    steps = f"looked at every {words.duration(said['step_ns'])}"
    if chosen.since_ns is None or window[1] - window[0] == _DAY_NS:
        steps += ", one day at most"
    span = f"{state.between(*window)}, {steps}"
    for each in said["no_data"]:
        st.warning(f"For a time it could say nothing: {each}", icon=":material/help:")
    if not said["firings"]:
        st.success(f"It would not have fired: {span}.", icon=":material/check_circle:")
        return
    found = pd.DataFrame(said["firings"])
    ends = found["end_ns"].astype("Int64")
    lasted = ends.fillna(window[1]) - found["start_ns"]
    st.markdown(
        f"It would have fired **{len(found)} time{'s' if len(found) > 1 else ''}**, "
        f"for {words.duration(lasted.sum())} in all: {span}."
    )
    labels = found["labels"].map(parts.labels).replace("", "all")
    figure = theme.figure(
        go.Bar(
            orientation="h",
            y=labels,
            base=state.local(found["start_ns"]),
            x=lasted.astype(float) / 1e6,
            customdata=lasted.map(words.duration),
            marker_color=theme.SERIES[1],
            width=0.5,
            hovertemplate="%{y}<br>%{base} for %{customdata}<extra></extra>",
        ),
        height=90 + 26 * labels.nunique(),
        xaxis={"type": "date", "range": [str(each) for each in state.local(pd.Series(window))]},
        yaxis={"automargin": True, "type": "category"},
    )
    st.plotly_chart(figure, key="firings", config={"displayModeBar": False}, alt="When the rule would have fired")
    table = pd.DataFrame(
        {
            "From": state.local(found["start_ns"]),
            "For": lasted.map(words.duration),
            "Resolved": ends.notna().map({True: "yes", False: "no"}),
            "What": found["summary"],
            "Of": labels,
        }
    )
    when = st.column_config.DatetimeColumn(format="MMM D HH:mm:ss.SSS")
    parts.table(table, column_config={"From": when}, alt="Times at which the rule would have fired")
