"""Reading views for pages: cached for seconds, shared by all who look."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
import streamlit as st

from warpline import settings as declared
from warpline.client import Client
from warpline.settings import Settings

SECOND_NS = 1_000_000_000
EVERY = {"text": "*", "path": "*", "pod": "*", "outcome": "*", "least_ns": "0", "most_ns": str(1 << 62)}
"""Filters of the view `request_search` that let every request through."""
FRESH_S = 5
"""How old what a page shows may be."""
TESTED_S, MOST_TESTED = 600.0, 64
_TESTED: dict[tuple[Any, ...], tuple[float, dict[str, Any]]] = {}
"""Back-tests by what was asked, the oldest first, each with the time until which it serves."""


@functools.cache
def settings() -> Settings:
    """Return the settings that `warpline dashboard` was started with, as it handed them over."""
    return declared.load()


@functools.cache
def client() -> Client:
    """Return the client of the query API."""
    return Client(settings())


@st.cache_data(ttl=FRESH_S, max_entries=256, show_spinner=False)
def view(name: str, **parameters: Any) -> pa.Table:
    """Return the rows of a view; raises StoreError with the correlator's sentence."""
    return client().view(name, **parameters)


def frame(name: str, **parameters: Any) -> pd.DataFrame:
    """Return the rows of a view as a pandas frame, whole numbers that may be missing kept whole."""
    return view(name, **parameters).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


def table(name: str, **parameters: Any) -> pd.DataFrame:
    """Return the rows of a stored table as a pandas frame."""
    return _table(name, **parameters).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


@st.cache_data(ttl=FRESH_S, max_entries=64, show_spinner=False)
def _table(name: str, **parameters: Any) -> pa.Table:
    return client().table(name, **parameters)


@st.cache_data(ttl=FRESH_S, max_entries=256, show_spinner=False)
def tracks(subject: str, value: str) -> dict[str, Any]:
    """Return what a timeline has to draw; `subject` is request or recording. Raises StoreError."""
    found: dict[str, Any] = client().get("/api/timeline/tracks", {subject: value}).json()
    return found


@st.cache_data(ttl=FRESH_S, max_entries=256, show_spinner=False)
def about(request: str) -> dict[str, list[dict[str, Any]]]:
    """Return what the joins know of a request: lists of phases, shares, blame and findings. Raises StoreError."""
    found: dict[str, list[dict[str, Any]]] = client().get("/api/timeline/about", {"request": request}).json()
    return found


@st.cache_data(ttl=FRESH_S, max_entries=256, show_spinner=False)
def explained(request: str) -> dict[str, Any]:
    """Return why a request took as long as it did: causes by weight, and what was not recorded. Raises StoreError."""
    found: dict[str, Any] = client().get("/api/timeline/explain", {"request": request}).json()
    return found


@st.cache_data(ttl=FRESH_S, max_entries=64, show_spinner=False)
def profile(request: str) -> list[dict[str, Any]]:
    """Return what took the time while a request lasted, by name and lane. Raises StoreError."""
    found: list[dict[str, Any]] = client().get("/api/timeline/profile", {"request": request}).json()["names"]
    return found


def kernels(row: pd.Series) -> pd.DataFrame:
    """Return what a request, a row of view `request`, was given of each kernel; empty where nothing is attributed to it."""
    start, end = int(row["start_ns"]), int(row["end_ns"])
    # Its last step may end after its last byte is sent, and its clocks may differ by as much.
    return frame(
        "request_kernel", request=str(row["request_uid"]), since_ns=start - SECOND_NS, until_ns=end + SECOND_NS
    )


@st.cache_data(ttl=60, show_spinner=False)
def rules() -> list[dict[str, Any]]:
    """Return the alert rules in force. Raises StoreError."""
    return client().rules()


def tested(
    rule: str, since_ns: int, until_ns: int, progress: Callable[[float], None], **thresholds: float
) -> dict[str, Any]:
    """Return when a rule would have fired in a window (see `Client.test_rule`), kept for ten minutes. Raises StoreError.

    Streamlit's own cache does not let what it keeps tell of its progress.
    """
    key = (rule, since_ns, until_ns, tuple(sorted(thresholds.items())), settings().query_url)
    kept_until, found = _TESTED.get(key, (0.0, {}))
    if time.monotonic() > kept_until:
        found = client().test_rule(rule, since_ns, until_ns, progress, **thresholds)
        while len(_TESTED) >= MOST_TESTED:
            _TESTED.pop(next(iter(_TESTED)), None)
        _TESTED[key] = (time.monotonic() + TESTED_S, found)
    return found


@st.cache_data(ttl=FRESH_S, show_spinner=False)
def disk() -> dict[str, Any]:
    """Return what the store takes on its disk and what is left there (see `Client.disk`). Raises StoreError."""
    return client().disk()


@st.cache_data(ttl=FRESH_S, show_spinner=False)
def kept() -> list[dict[str, Any]]:
    """Return the windows that flight recorders were asked for lately. Raises StoreError."""
    return client().kept()


@st.cache_data(ttl=60, show_spinner=False)
def has(name: str) -> bool:
    """Return whether the correlator has view `name`: an older one may lack it, and a page then says so."""
    return any(each["name"] == name for each in client().views())
