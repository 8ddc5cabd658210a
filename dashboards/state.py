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

SAID = {
    "5m": "the last 5 minutes",
    "15m": "the last 15 minutes",
    "1h": "the last hour",
    "6h": "the last 6 hours",
    "24h": "the last 24 hours",
    "7d": "the last 7 days",
    "all": "all that is stored",
}
"""A time range as a sentence names it."""

SECOND_NS = 1_000_000_000
_WINDOW = "window of the page before"
KINDS = {"inference": "POST", "all": "*"}
"""Which requests a person means → the method that they have: scrapes and probes are GETs, inference is a POST everywhere."""


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
    def said(self) -> str:
        """The window as a sentence names it, a window of its own by its two moments in the zone chosen."""
        if self.until_ns is not None:
            return between(self.since_ns or 0, self.until_ns)
        return SAID.get(self.name, SAID["1h"])

    @property
    def query(self) -> str:
        """The same range in the address of another page."""
        return f"window={self.name}" if self.until_ns is not None else f"range={self.name}"


def controls(default: str = "1h") -> Range:
    """Show the time range, zone and refresh at the top of a page; return the range.

    An address may also name a window of its own, `window=<from_ns>-<to_ns>`, which holds until it is dismissed.
    """
    named = window(_carried())
    with st.container(horizontal=True, vertical_alignment="center"):
        if named.until_ns is not None:
            st.button(named.said, on_click=_dismiss, icon=":material/close:", help="Back to the time ranges")
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


def _carried() -> str:
    """Return the window that the address names, or else the one that the page before had: its link does not carry it."""
    if "range" in st.query_params:
        st.session_state.pop(_WINDOW, None)
    elif name := st.query_params.get("window", ""):
        st.session_state[_WINDOW] = name
    elif name := st.session_state.get(_WINDOW, ""):
        st.query_params["window"] = name
    return str(st.query_params.get("window", ""))


def _dismiss() -> None:
    st.query_params.pop("window", None)
    st.session_state.pop(_WINDOW, None)


def choice(title: str, names: list[str], key: str) -> str:
    """Show a choice of one of a few; return it, the first where none is chosen. Its key is its name in the address."""
    chosen = st.segmented_control(
        title, names, default=names[0], key=key, bind="query-params", label_visibility="collapsed"
    )
    return chosen or names[0]


def method() -> str:
    """Show the choice between inference and all requests; return the method that they have, `*` for any."""
    return KINDS[choice("Requests", list(KINDS), "kind")]


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
    moment = _moment(time_ns)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns // 1_000_000 % 1000:03d} {moment.tzname()}"


def short(time_ns: int) -> str:
    """Return one moment as tables show it: Nov 27 10:33:22."""
    return f"{_moment(time_ns):%b %-d %H:%M:%S}"


def between(since_ns: int, until_ns: int) -> str:
    """Return a window as a person reads it: its day once where it is one day, fractions of a second where they count."""
    first, last = (_moment(each) for each in (since_ns, until_ns))
    short = until_ns - since_ns < 10 * SECOND_NS
    ends = [f"{each:%H:%M:%S}" for each in (first, last)]
    if short:
        digits = 3 if until_ns - since_ns >= SECOND_NS // 10 else 6
        ends = [f"{end}.{at % SECOND_NS:09d}"[: 9 + digits] for end, at in zip(ends, (since_ns, until_ns), strict=True)]
    day = "" if first.date() == last.date() else f"{last:%Y-%m-%d} "
    return f"{first:%Y-%m-%d} {ends[0]} to {day}{ends[1]} {last.tzname()}"


def _moment(time_ns: int) -> datetime:
    """Return a moment in the zone chosen, one that no calendar has as the first or the last that it has."""
    seconds = min(max(time_ns // SECOND_NS, -62_135_510_400), 253_402_214_400)
    return datetime.fromtimestamp(seconds, UTC).astimezone(ZoneInfo(zone()))
