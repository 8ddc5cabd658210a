"""What happened around a request, in sentences: to its GPUs, its engine, its node and its packets (view `request_around`).

What took a known time of the request's own is a cause with that weight; the rest stands beside it, and only its time says
that the two may have to do with each other: it weighs nothing, and is an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """One finding: what happened, what it cost in ns of wall time (0 where it explains none), and how it is known."""

    sentence: str
    ns: int
    evidence: str
    method: str = ""
    """How it was found out, in a few words."""
    confidence: float | None = None
    """How sure it is, 0 to 1, where that is known."""
    error_ns: tuple[int, int] | None = None
    """Where clocks of two nodes meet: the least and the most that the time which it tells may be."""


def milliseconds(ns: float) -> str:
    """Return a time in words: ms with three digits that count, what is long in seconds, minutes or hours."""
    for unit, name in ((7.2e12, "h"), (1.2e11, "min"), (1e9, "s")):
        if abs(ns) >= unit:
            return f"{ns / {'h': 3.6e12, 'min': 6e10, 's': 1e9}[name]:.3g} {name}"
    return f"{ns / 1e6:.3g} ms"


def causes(rows: list[Row], wall_ns: int) -> list[Cause]:
    """Return what took of the request's own time: others on its GPU, and a GPU that was throttled; `wall_ns` is its time."""
    found = []
    for row in rows:
        amount = row["amount"]
        if row["kind"] == "neighbour":
            text = f"another process worked on its GPU meanwhile ({row['what']}): {milliseconds(amount)} of busy time"
            found.append(Cause(text, min(int(amount), wall_ns), "derived", "busy time of its GPUs by process"))
        elif row["kind"] == "throttled":
            share = min(amount / row["whole"], 1.0) if row["whole"] else 0.0
            text = f"{row['what']} for {milliseconds(amount)} of the {milliseconds(row['whole'])} around it"
            method = "the GPU's counter of throttled time, in proportion"
            found.append(Cause(text, int(share * wall_ns), "estimated", method))
    return found


def beside(rows: list[Row], start_ns: int, end_ns: int) -> list[Cause]:
    """Return what happened besides, faults of the hardware first; the request's own time is [`start_ns`, `end_ns`)."""
    found = []
    for kind, say in _SAY.items():
        for row in rows:
            if row["kind"] == kind:
                when = "" if row["at_ns"] is None else _when(row["at_ns"], start_ns, end_ns)
                found.append(Cause(say(row, when), 0, "exact" if kind == "lost_rows" else "estimated", _METHOD[kind]))
    return found


def _when(at_ns: int, start_ns: int, end_ns: int) -> str:
    if at_ns < start_ns:
        return f"{milliseconds(start_ns - at_ns)} before it began"
    return "while it lasted" if at_ns < end_ns else f"{milliseconds(at_ns - end_ns)} after it ended"


def counted(number: float, one: str, many: str = "") -> str:
    """Return a number with the word for what it counts: 1 row, 2 rows."""
    return f"{number:,.0f} {one if number == 1 else many or one + 's'}"


def _cold_start(row: Row, when: str) -> str:
    took = milliseconds(row["amount"])
    state = f"took {took} from creation to ready" if row["whole"] else f"was still starting, after {took}"
    return f"a cold start: pod {row['what']} was created {when} and {state}"


def _image_pull(row: Row, when: str) -> str:
    took = milliseconds(row["amount"])
    return f"pod {row['what']} began to pull its image {when} and " + (
        f"had it after {took}" if row["whole"] else f"had it not after {took}"
    )


def _clock_set(row: Row, when: str) -> str:
    way = "forward" if row["amount"] > 0 else "back"
    return f"the wall clock of {row['what']} was set {way} by {milliseconds(abs(row['amount']))}, {when}"


_SAY: dict[str, Callable[[Row, str], str]] = {
    "xid": lambda row, when: f"{row['what']} reported XID {row['amount']:.0f}, {when}",
    "gpu_errors": lambda row, when: (
        f"{counted(row['amount'], 'memory error')} of {row['what']}, {'the first ' if row['amount'] > 1 else ''}{when}"
    ),
    "dropped_flows": lambda row, when: (
        f"{counted(row['amount'], 'packet')} {row['what']} {'was' if row['amount'] == 1 else 'were'} dropped,"
        f" {'the first ' if row['amount'] > 1 else ''}{when}"
    ),
    "resent": lambda row, when: (
        f"packets were lost: {row['amount']:.0f} of {counted(row['whole'], 'exchange')} on {row['what']}, within a minute of"
        " it, had segments sent again more than once"
    ),
    "waiting": lambda row, when: (
        f"up to {counted(row['amount'], 'request')} waited in the queue of the engine at {row['what']}"
    ),
    "gpu_active": lambda row, when: (
        f"{row['what']} was {row['amount']:.0%} active (SM): "
        + ("saturated" if row["amount"] >= 0.9 else "requests waited for the host, not for it")
    ),
    "preempted": lambda row, when: (
        f"its engine preempted {counted(row['whole'], 'request')} while it lasted, {counted(row['amount'], 'time')} in all"
    ),
    "kv_cache": lambda row, when: f"the KV cache of the engine at {row['what']} was {row['amount']:.0%} full",
    "kv_transfer": lambda row, when: f"KV caches came to {row['what']} at {row['amount'] / 1e9:.2g} GB/s",
    "gpu_memory": lambda row, when: f"{row['what']} had {row['amount']:.1%} of its memory left",
    "interconnect": lambda row, when: f"{row['what']} at {row['amount'] / 1e9:.3g} GB/s",
    "cold_start": _cold_start,
    "image_pull": _image_pull,
    "silent": lambda row, when: (
        f"the collector on {row['what']} was silent for {milliseconds(row['amount'])}, from {when}:"
        " what happened then is not known"
    ),
    "clock_set": _clock_set,
    "lost_rows": lambda row, when: (
        f"{counted(row['amount'], 'row')} of that time {'is' if row['amount'] == 1 else 'are'} known to be lost:"
        f" {row['what']}"
    ),
}
"""Kind → its sentence of a row and of when it was, the order in which they are told."""

_METHOD = {
    "xid": "a change of the GPU's last XID, within 30 s",
    "gpu_errors": "the GPU's error counters, within 30 s",
    "dropped_flows": "verdicts on all flows that Hubble saw, within 5 s",
    "resent": "retransmits of all exchanges of its node, within a minute",
    "waiting": "the engine's own gauge, within 10 s",
    "gpu_active": "the GPU's own gauge, within 5 s",
    "preempted": "events of its engine, while it lasted",
    "kv_cache": "the engine's own gauge, within 10 s",
    "kv_transfer": "the engine's own counters, within 10 s",
    "gpu_memory": "the GPU's own gauges, within 5 s",
    "interconnect": "the GPU's own gauges, within 5 s",
    "cold_start": "the pod's times in Kubernetes, ready within a minute before it began or later",
    "image_pull": "kubelet's Events, in whole seconds",
    "silent": "pairs of the node's clocks, which come every few seconds",
    "clock_set": "the node's wall clock beside its monotonic one, within a minute",
    "lost_rows": "what the sources themselves count as lost, within 1 s",
}
"""Kind → how it was found out: by its time alone it has to do with the request."""
