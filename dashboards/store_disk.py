"""The store on disk, on the page Pipeline health: its size by the day, how long it is kept, what room is left."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import parts, read, theme, words

_SCARCE_DAYS = 3
_YEAR = 365


def show() -> None:
    """Show the facts, a warning where the disk will be full soon, and the days."""
    said = read.disk()
    days = pd.DataFrame(said["days"], columns=["date", "bytes", "segments"])
    largest = int(days["bytes"].max()) if len(days) else 0
    room = max(said["free_bytes"] - said["reserve_bytes"], 0)
    kept = [f"{said['retention_days']} days"] if said["retention_days"] else []
    kept += [words.size(said["retention_bytes"])] if said["retention_bytes"] else []
    parts.facts(
        ("Store", words.size(days["bytes"].sum()), "Bytes of all days on disk"),
        ("Days", words.count(len(days)), "UTC days that it holds"),
        ("Kept", " or ".join(kept) or "all", "Settings correlator_retention_days and correlator_retention_gb"),
        (
            "Waits in the spool",
            words.size(said["spool_bytes"]),
            f"Acknowledged and not stored yet; the bound is {words.size(said['spool_limit_bytes'])}",
        ),
        (
            "Disk left",
            f"{words.size(said['free_bytes'])}, {words.share(said['free_bytes'], said['total_bytes'])}",
            f"Of {words.size(said['total_bytes'])}; writes stop below {words.size(said['reserve_bytes'])}",
        ),
        (
            "Room for",
            _room(room, largest, len(days)),
            "More days as large as the largest, known once one was stored whole; what the retention drops comes back",
        ),
    )
    missing = max(said["retention_days"] - len(days), 0) * largest
    if largest and said["retention_days"] and missing > room:
        st.warning(
            f"**The disk is full before the retention begins to drop days.** {said['retention_days']} days are to be kept, "
            f"and there is room for {room / largest:,.1f} more. Keep fewer (`correlator_retention_days`), bound the size "
            "(`correlator_retention_gb`), or give the store a larger disk.",
            icon=":material/hard_disk:",
        )
    if len(days) >= _SCARCE_DAYS:
        _days(days)


def _room(room: int, largest: int, days: int) -> str:
    """Return for how many more days there is room in bytes. The only day has not ended: it will be larger than it is."""
    if not largest or (days < 2 and room / largest > _YEAR):
        return parts.NONE
    return "over a year" if room / largest > _YEAR else f"{'at most ' if days < 2 else ''}{room / largest:,.0f} days"


def _days(days: pd.DataFrame) -> None:
    bars = go.Bar(
        x=days["date"],
        y=days["bytes"].astype(float) / 1e9,
        marker_color=theme.SERIES[0],
        customdata=days["bytes"].map(words.size),
        hovertemplate="%{x}: %{customdata}<extra></extra>",
    )
    figure = theme.figure(bars, height=170, xaxis={"type": "category"}, yaxis={"title": "GB"})
    st.plotly_chart(figure, key="days", config={"displayModeBar": False}, alt="Bytes of the store by day")
