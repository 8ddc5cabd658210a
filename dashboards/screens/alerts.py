"""Alerts: what fires now, what fired, and each rule's own words."""

from __future__ import annotations

import json

import pandas as pd
import streamlit as st

from dashboards import parts, read, state

BADGES = {
    "firing": ":red-badge[:material/error: firing]",
    "pending": ":orange-badge[:material/schedule: pending]",
    "no_data": ":gray-badge[:material/help: no data]",
    "resolved": ":green-badge[:material/check: resolved]",
}


def show() -> None:
    """Show the page."""
    st.title("Alerts")
    chosen = state.controls("24h")
    parts.live(_body, chosen)


def _body(chosen: state.Range) -> None:
    now = read.frame("alert_state")
    loud = now[now["state"].isin(["firing", "pending"])]
    st.subheader("Now")
    if loud.empty:
        quiet = "No rule has fired yet." if now.empty else f"Nothing fires. {len(now)} instances were seen before."
        st.success(quiet, icon=":material/check_circle:")
    for _, row in loud.iterrows():
        _alert(row)
    history = read.table("alert", **chosen.bounds, order="-time_ns", limit=2000)
    st.subheader("History")
    if history.empty:
        parts.nothing(
            f"No alert changed its state in the range *{chosen.name}*",
            "Choose a longer time range above.",
            icon=":material/notifications_off:",
        )
        return
    table = pd.DataFrame(
        {
            "When": state.local(history["time_ns"]),
            "Rule": history["rule"].str.replace("_", " "),
            "State": history["state"],
            "Severity": history["severity"],
            "What": history["summary"],
            "Value": history["value"],
            "For": history["labels"].map(_labels),
            "Told a receiver": history["notified"],
        }
    )
    when = st.column_config.DatetimeColumn(format="MMM D HH:mm:ss.SSS")
    st.dataframe(table, hide_index=True, column_config={"When": when}, alt="Changes of alerts, the newest first")
    parts.download(table, "alerts")


def _alert(row: pd.Series) -> None:
    with st.container(border=True):
        st.markdown(
            f"{BADGES.get(row['state'], row['state'])} **{str(row['rule']).replace('_', ' ')}** "
            f":gray-badge[{row['severity']}] "
            f"{row['summary'] or ''}"
        )
        labels = _labels(row["labels"])
        st.caption(f"{labels + ' · ' if labels else ''}since {state.said(int(row['time_ns']))}")


def _labels(text: object) -> str:
    try:
        found = json.loads(str(text))
    except ValueError:
        return ""
    return ", ".join(f"{key} {value}" for key, value in found.items()) if isinstance(found, dict) else ""


show()
