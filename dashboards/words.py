"""Numbers and states as people read them."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import quote

import pandas as pd


def missing(value: Any) -> bool:
    """Return whether a value of a frame is none: NULL, NaN or pandas' NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


_LONG = ((1.728e14, 8.64e13, "days"), (7.2e12, 3.6e12, "h"), (0, 6e10, "min"))
"""From how many ns on what is long is told in which unit, of how many ns."""


def duration(ns: Any) -> str:
    """Return a duration in ns with three or four digits and its unit; a dash where there is none."""
    if missing(ns):
        return "–"
    size = abs(float(ns))
    if size == 0:
        return "0 s"
    if size >= 1e12:
        return next(f"{float(ns) / unit:.3g} {name}" for least, unit, name in _LONG if size >= least)
    for unit, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if size >= unit:
            value = float(ns) / unit
            return f"{value:.{max(0, 2 - int(math.log10(max(abs(value), 1))))}f} {name}"
    return f"{int(ns)} ns"


def change(ns: Any) -> str:
    """Return a difference of durations in ns with its sign: +1.20 s, −26.5 s."""
    if missing(ns):
        return "–"
    return f"{'+' if ns > 0 else '−' if ns < 0 else ''}{duration(abs(ns))}"


def count(value: Any) -> str:
    """Return a whole number with its thousands apart."""
    return "–" if missing(value) else f"{int(value):,}"


def counted(number: int, name: str) -> str:
    """Return a number with what it counts, in the singular where it is one: 1 GPU, 8 GPUs."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def size(value: Any) -> str:
    """Return bytes in a unit that fits: 96.4 kB."""
    if missing(value):
        return "–"
    number = float(value)
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{int(number)} B"


def share(part: Any, whole: Any) -> str:
    """Return part of a whole in percent; a dash where there is no whole."""
    return "–" if missing(part) or missing(whole) or not whole else f"{100 * float(part) / float(whole):.3g} %"


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters, its end left out where it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"


def filled(template: str, row: pd.Series) -> str:
    """Return an address with what is known of a request filled in for `{name}`, quoted; nothing where that is unknown.

    `start_ms` and `end_ms` are its first and last moment in ms since 1970.
    """
    known = {name: row.get(name) for name in ("request_id", "response_id", "trace_id", "pod", "namespace", "node")}
    for end in ("start", "end"):
        known[f"{end}_ms"] = None if missing(row[f"{end}_ns"]) else int(row[f"{end}_ns"]) // 1_000_000
    for name, value in known.items():
        template = template.replace(f"{{{name}}}", "" if missing(value) else quote(str(value), safe=""))
    return template


SHARED_BY = {
    "attention": "attention: shared by context",
    "sampling": "sampling: shared by tokens sampled",
    "dense": "all others: shared by tokens",
}
"""Class of weights of an attribution → its kernels, and by what their time is shared among the requests of a step."""

OUTCOME = ("status", "ended_by", "open", "grpc_status")
"""Columns of a request that `outcome` takes, in this order."""


def outcome(status: Any, ended_by: Any, still_open: Any, grpc_status: Any) -> tuple[str, str]:
    """Return how a request ended, as a word with its status, and the colour of its badge.

    A gRPC call's own status is told, for HTTP's is 200 whatever became of the call.
    """
    if not missing(still_open) and bool(still_open):
        return "open", "blue"
    if missing(status):
        return "no response seen", "gray"
    if ended_by == "abort":
        return f"{int(status)} aborted", "orange"
    if not missing(grpc_status):
        return f"gRPC {int(grpc_status)}", "red" if int(grpc_status) else "green"
    return str(int(status)), "green" if int(status) < 400 else "red" if int(status) >= 500 else "orange"
