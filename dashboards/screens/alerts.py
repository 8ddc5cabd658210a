"""Alerts: what fires now, what fired, which windows were kept for it, and when a rule would have fired."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboards import alert_test, fired, parts, read, state, words

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
    alert_test.show(chosen)


def _body(chosen: state.Range) -> None:
    now = read.frame("alert_state")
    loud = now[now["state"].isin(["firing", "pending"])]
    st.subheader("Now")
    if loud.empty:
        _quiet(now)
    for _, row in loud.iterrows():
        _alert(row)
    _blind(now)
    _history(chosen)
    _kept()


def _quiet(now: pd.DataFrame) -> None:
    """Say that nothing fires, and tell a quiet system from one of which nothing is known."""
    before = int((now["state"] == "resolved").sum())
    watching = words.counted(sum(each["in_force"] for each in read.rules()), "rule")
    if before:
        st.success(
            f"Nothing fires. {words.counted(before, 'alert')} did before: see the history.",
            icon=":material/check_circle:",
        )
    elif not read.frame("table_recent")["rows"].sum() and read.frame("source").empty:
        parts.nothing(
            f"{watching} watch, and nothing has arrived for them to look at",
            "[Pipeline health](/health) says which collectors report; the [front page](/) says how to begin.",
            icon=":material/notifications_paused:",
        )
    else:
        st.success(f"{watching} watch. None has fired yet.", icon=":material/check_circle:")


def _blind(now: pd.DataFrame) -> None:
    """Say which rules have no data: what they are about may be well or not."""
    blind = now.loc[now["state"] == "no_data", "rule"].unique()
    if len(blind):
        names = ", ".join(sorted(str(each).replace("_", " ") for each in blind))
        st.info(f"Without data, so that they can say nothing: {names}.", icon=":material/help:")


def _history(chosen: state.Range) -> None:
    history = read.table("alert", **chosen.bounds, order="-time_ns", limit=2000)
    st.subheader("History")
    if history.empty:
        parts.nothing(
            f"No alert changed its state in {chosen.said}",
            *_advice(chosen),
            icon=":material/notifications_off:",
        )
        return
    table = pd.DataFrame(
        {
            "When": state.local(history["time_ns"]),
            "Rule": history["rule"].str.replace("_", " "),
            "State": history["state"].str.replace("_", " "),
            "Severity": history["severity"],
            "What": history["summary"].map(fired.shortened, na_action="ignore"),
            "Notified": history["notified"].map({True: "yes", False: "no"}),
            "Value": history["value"],
            "For": history["labels"].map(parts.labels).map(fired.shortened),
        }
    )
    columns = {
        "When": st.column_config.DatetimeColumn(format="MMM D HH:mm:ss"),
        "Notified": st.column_config.TextColumn(
            help="Whether a receiver took it: Alertmanager or a webhook", width="small"
        ),
        "For": st.column_config.TextColumn(help="What the alert is about"),
    }
    parts.table(table, column_config=columns, alt="Changes of alerts, the newest first")
    parts.download(table, "alerts")


def _advice(chosen: state.Range) -> list[str]:
    newest = read.table("alert", order="-time_ns", limit=1)
    if newest.empty:
        return ["None ever did. The rules below can be tried on what is stored, with other numbers."]
    return [parts.newest_at("alerts", int(newest["time_ns"].iloc[0])), *parts.wider(chosen)]


def _alert(row: pd.Series) -> None:
    with st.container(border=True):
        st.markdown(
            f"{BADGES.get(row['state'], row['state'])} **{str(row['rule']).replace('_', ' ')}** "
            f":gray-badge[{row['severity']}] "
            f"{fired.shortened(row['summary'] or '')}"
        )
        labels = parts.labels(row["labels"])
        st.caption(f"{labels + ' · ' if labels else ''}since {state.said(int(row['time_ns']))}")


def _kept() -> None:
    found = pd.DataFrame(read.kept(), columns=["cause", "node", "since_ns", "until_ns"])
    st.subheader("Kept windows")
    if found.empty:
        st.caption(
            "No flight recorder was asked for its detail since the correlator began: that happens around an alert, around a "
            "slow request, or by `warpline incident keep`."
        )
        return
    table = pd.DataFrame(
        {
            "": [
                f"/requests?window={since}-{until}"
                for since, until in zip(found["since_ns"], found["until_ns"], strict=True)
            ],
            "Cause": found["cause"].str.replace("_", " "),
            "Node": found["node"].replace("", "all"),
            "From": state.local(found["since_ns"]),
            "Lasts": (found["until_ns"] - found["since_ns"]).map(words.duration),
        }
    )
    columns = {
        "": st.column_config.LinkColumn("", display_text="its requests", width="small"),
        "From": st.column_config.DatetimeColumn(format="MMM D HH:mm:ss.SSS"),
    }
    parts.table(table, column_config=columns, alt="Windows that flight recorders were asked for")


show()
