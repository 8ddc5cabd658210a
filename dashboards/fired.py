"""Which alerts fired in a window, one line a rule, the most severe first: what a page about that time has to say first."""

from __future__ import annotations

import re

import pandas as pd
import streamlit as st

from dashboards import parts, read, state

LATE_NS = 90 * state.SECOND_NS
"""Rules look back a minute, and fire that much later than what they are about."""
BEFORE_NS = 24 * 3600 * state.SECOND_NS
"""How long an alert may have fired before a window and still count."""
MOST, MOST_ROWS = 5, 5000
OWN = ("rows_lost", "collector_silent", "source_down", "unexplained_share")
"""Rules about Warpline itself: what they say comes after what is said of the serving."""
AVERAGED = {
    "queue_growing": "on average over 15 s",
    "gpu_idle_while_waiting": "SM activity, not whether any kernel runs; on average over 15 s",
}
"""Rule → what its number is of, where a page shows another number of the same beside it: the most, or another measure."""
SEVERITY = {"critical": "red", "warning": "orange", "info": "gray"}
"""Colour of each severity's badge, the most severe first."""


def within(since_ns: int | None, until_ns: int | None) -> pd.DataFrame:
    """Return the rules that fired about a window, None an open end: rule, severity, summary, how many instances, when first,
    and `ended_ns`, when the last of them ended, missing where one had not until the window's end.

    What fired before it and was not resolved until then is among them. Raises StoreError.
    """
    bounds = {} if since_ns is None else {"since_ns": since_ns - BEFORE_NS}
    if until_ns is not None:
        bounds["until_ns"] = until_ns + LATE_NS
    found = read.table("alert", **bounds, order="time_ns", limit=MOST_ROWS)
    ended = found.groupby(["rule", "labels"], dropna=False)["time_ns"].shift(-1)
    lasting = ended.isna() | (ended >= (since_ns or 0))
    found = found.assign(ended_ns=ended, ended=ended.notna())[(found["state"] == "firing") & lasting]
    lines = (
        found.assign(rank=_rank(found))
        .groupby("rule", as_index=False)
        .agg(
            severity=("severity", "first"),
            summary=("summary", "first"),
            instances=("labels", "nunique"),
            time_ns=("time_ns", "min"),
            ended_ns=("ended_ns", "max"),
            ended=("ended", "all"),
            rank=("rank", "min"),
        )
    )
    lines["ended_ns"] = lines["ended_ns"].where(lines["ended"])
    return lines.sort_values(["rank", "time_ns"], ignore_index=True)


def _rank(found: pd.DataFrame) -> pd.Series:
    """Return the place of each alert's rule: the most severe first, those about Warpline itself after all others."""
    order = {name: at for at, name in enumerate(SEVERITY)}
    return found["severity"].map(order).fillna(len(order)).astype(int) + len(SEVERITY) * found["rule"].isin(OWN)


def show(title: str, found: pd.DataFrame, link: str) -> None:
    """Show the rules that fired, or that none did; `link` is the address of the page Alerts for their time."""
    if found.empty:
        st.caption(f":material/notifications: No rule {title[:1].lower()}{title[1:]} · [history]({link})")
        return
    lines = [_line(row) for _, row in found.head(MOST).iterrows()]
    more = len(found) - MOST
    rest = f" and {more} more rule{'s' if more > 1 else ''}" if more > 0 else ""
    with st.container(border=True, key="fired"):
        st.markdown(f":material/notifications_active: **{title}** · [history{rest}]({link})\n" + "\n".join(lines))


def _line(row: pd.Series) -> str:
    badge = f":{SEVERITY.get(row['severity'], 'gray')}-badge[{str(row['rule']).replace('_', ' ')}]"
    others = int(row["instances"]) - 1
    more = f" :gray[({AVERAGED[row['rule']]})]" if row["rule"] in AVERAGED else ""
    more += f" *and {others} more like it*" if others else ""
    return f"- {badge} {parts.linked(shortened(str(row['summary'] or '')))}{more} :gray[· {_when(row)}]"


def _when(row: pd.Series) -> str:
    """Return since when a rule fires, or from when to when it did."""
    begun = state.short(int(row["time_ns"]))
    if pd.isna(row["ended_ns"]):
        return f"since {begun}"
    ended = state.short(int(row["ended_ns"]))
    same_day = begun.rsplit(" ", 1)[0] == ended.rsplit(" ", 1)[0]
    return f"{begun} to {ended.rsplit(' ', 1)[1] if same_day else ended}"


def shortened(text: str) -> str:
    """Return a text with the UUIDs of GPUs cut to their two ends, as a person tells them apart."""
    return re.sub(r"(?:\bGPU )?\b((?:GPU|MIG)-[0-9a-f]{4})[0-9a-f]{4}-[0-9a-f-]{23}([0-9a-f]{4})\b", r"\1…\2", text)
