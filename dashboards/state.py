"""What a person chose, kept in the page's address: time range, time zone, live refresh."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pandas as pd
import streamlit as st

RANGES: dict[str, int | None] = {
    "5m": 300,
    "15m": 900,
    "1h": 3600,
    "6h": 6 * 3600,
    "24h": 24 * 3600,
    "7d": 7 * 24 * 3600,
    "all": None,
}
"""Name of a time range, as the address spells it → its length in seconds."""

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Range:
    """A window of node time, half-open; a None is open. `name` says which was chosen."""

    name: str
    since_ns: int | None
    until_ns: int | None

    @property
    def bounds(self) -> dict[str, int]:
        """The bounds as parameters of a view."""
        named = {"since_ns": self.since_ns, "until_ns": self.until_ns}
        return {key: value for key, value in named.items() if value is not None}

    @property
    def query(self) -> str:
        """The same range in the address of another page."""
        return f"window={self.name}" if self.until_ns is not None else f"range={self.name}"


def controls(default: str = "1h") -> Range:
    """Show the time range, zone and refresh at the top of a page; return the range.

    An address may also name a window of its own, `window=<from_ns>-<to_ns>`, which holds until it is dismissed.
    """
    named = window(st.query_params.get("window", ""))
    with st.container(horizontal=True, vertical_alignment="center"):
        if named.until_ns is not None:
            shown = f"{said(named.since_ns or 0)} – {said(named.until_ns)}"
            st.button(shown, on_click=_dismiss, icon=":material/close:", help="Back to the time ranges")
            chosen = None
        else:
            chosen = st.segmented_control(
                "Time range",
                list(RANGES),
                default=default,
                key="range",
                bind="query-params",
                label_visibility="collapsed",
            )
        zone_control()
        st.toggle("Live", key="live", bind="query-params", help="Read again every five seconds")
    return named if named.until_ns is not None else window(chosen or default)


def _dismiss() -> None:
    st.query_params.pop("window", None)


def zone_control() -> None:
    """Show the choice between UTC and the browser's own time."""
    st.segmented_control(
        "Times in", ["local", "UTC"], default="local", key="zone", bind="query-params", label_visibility="collapsed"
    )


def window(name: str, now_ns: int | None = None) -> Range:
    """Return the window of a range's name, or of `<from_ns>-<to_ns>`; an odd name is the last hour."""
    first, dash, last = name.partition("-")
    if dash and first.isdigit() and last.isdigit():
        return Range(name, int(first), int(last))
    seconds = RANGES.get(name, 3600)
    if seconds is None:
        return Range(name, None, None)
    # Whole seconds of five: pages that ask within them share what was read.
    now = (time.time_ns() if now_ns is None else now_ns) // (5 * SECOND_NS) * (5 * SECOND_NS)
    return Range(name, now - seconds * SECOND_NS, None)


def live_seconds() -> int | None:
    """Return how often a page reads again, None where it does not."""
    return 5 if st.session_state.get("live") else None


def zone() -> str:
    """Return the zone that times are shown in: UTC, or the name of the browser's."""
    if st.session_state.get("zone") == "UTC":
        return "UTC"
    return st.context.timezone or "UTC"


def local(column: pd.Series) -> pd.Series:
    """Return a column of node time in the chosen zone, to the µs, without a zone of its own: for tables and charts."""
    moments = pd.to_datetime(column.astype("Int64"), unit="ns", utc=True).dt.floor("us")
    return moments.dt.tz_convert(zone()).dt.tz_localize(None)


def said(time_ns: int) -> str:
    """Return one moment as a person reads it, with its zone."""
    moment = datetime.fromtimestamp(time_ns / SECOND_NS, UTC).astimezone(ZoneInfo(zone()))
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns // 1_000_000 % 1000:03d} {moment.tzname()}"
