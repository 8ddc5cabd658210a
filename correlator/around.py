"""What happened around a request, in sentences: to its GPUs, its engine, its node and its packets (view `request_around`).

What took a known time of the request's own is a cause with that weight. Of the rest only its time says that the two may have
to do with each other: it weighs nothing, and is an estimate. What is rare and has a name (a failing GPU, a full KV cache,
lost packets) is an event, and stands before time that merely passed; what came after the request is no reason of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from correlator import xid

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
    kind: str = "time"
    """`event`: rare, and has a name; `time`: time that passed; `ordinary`: time that its peers have, too."""


_FAR_MORE = 4
"""How many times as long as an event time that merely passed must be to stand before it."""


def first(found: list[Cause], wall_ns: int) -> list[Cause]:
    """Return causes in the order in which they are told; an event without a known part in the time is not outweighed."""

    def weight(cause: Cause) -> float:
        if cause.kind == "event":
            return _FAR_MORE * cause.ns or wall_ns
        return cause.ns if cause.kind == "time" else cause.ns / wall_ns  # Below all that is not ordinary.

    return sorted(found, key=weight, reverse=True)


def weakest(rows: Sequence[Row]) -> str:
    """Return the weakest evidence that rows have; `unknown` where none has any."""
    kinds = {str(row["evidence"]) for row in rows if row["evidence"]}
    return next((kind for kind in ("unknown", "estimated", "derived", "exact") if kind in kinds), "unknown")


def milliseconds(ns: float) -> str:
    """Return a time in words: ms with three digits that count, what is long in seconds, minutes or hours."""
    for unit, name in ((7.2e12, "h"), (1.2e11, "min"), (1e9, "s")):
        if abs(ns) >= unit:
            return f"{ns / {'h': 3.6e12, 'min': 6e10, 's': 1e9}[name]:.3g} {name}"
    return f"{ns / 1e6:.3g} ms"


def causes(rows: list[Row], lasted_ns: int, at_once: Callable[[Row], int]) -> list[Cause]:
    """Return what took of the request's own time: others on its GPU, and a GPU that was throttled.

    `lasted_ns` is its time at its server; `at_once` says for how long at least a neighbour ran while no kernel of it did.
    """
    found = []
    for row in rows:
        amount = row["amount"]
        if row["kind"] == "neighbour":
            text = f"another process worked on its GPU meanwhile ({row['what']}): {milliseconds(amount)} of busy time"
            both = at_once(row)
            text += f", at least {milliseconds(both)} of it while no kernel of this request ran" if both else ""
            method = "busy time of its GPUs by process"
            found.append(Cause(text, min(int(amount), lasted_ns), "derived", method, kind="event"))
        elif row["kind"] == "throttled" and amount > 0:
            text = f"{row['what']} for {milliseconds(amount)} of the {milliseconds(lasted_ns)} that it lasted"
            method = "the GPU's counter of throttled time, between its readings in proportion"
            found.append(Cause(text, min(int(amount), lasted_ns), "estimated", method, kind="event"))
    return found


def beside(rows: list[Row], request: Row, coverage: float) -> tuple[list[Cause], list[Cause]]:
    """Return what happened besides, faults of the hardware first: events before its end, and what is no reason of it.

    `coverage` is the share of the time of `request` (a row of the view `request`) that is explained.
    """
    events: list[Cause] = []
    rest: list[Cause] = []
    for kind in _SAY:
        for row in rows:
            if row["kind"] == kind and not (kind == "throttled" and row["amount"] > 0):
                late = row["at_ns"] is not None and row["at_ns"] >= request["end_ns"]
                event = not late and _bears(row, request)
                (events if event else rest).append(_near(row, request, coverage, "event" if event else "time"))
    return events, rest


def _near(row: Row, request: Row, coverage: float, as_kind: str) -> Cause:
    kind, at_ns = row["kind"], row["at_ns"]
    when = "" if at_ns is None else _when(at_ns, request["start_ns"], request["end_ns"])
    text = _SAY[kind](row, when) + _of_it(row, request, coverage)
    if at_ns is not None and at_ns >= request["end_ns"] and kind != "lost_rows":
        text += ", so not its cause"
    return Cause(text, 0, "exact" if kind == "lost_rows" else "estimated", _METHOD[kind], kind=as_kind)


def _of_it(row: Row, request: Row, coverage: float) -> str:
    """Return what an event has to do with this request itself."""
    if row["kind"] == "resent":
        own = counted(request["retransmits"], "segment") if request["retransmits"] else "none"
        return f"; its own connection sent {own} again"
    if row["kind"] == "silent" and coverage:
        return f"; this request was seen all the same, {coverage:.0%} of its time by phase"
    served = _served(row, request) if row["kind"] == "cold_start" else None
    if served is None:
        return ""
    here = ", but started on its node" if row["node"] is not None and row["node"] == request["node"] else ""
    return "; it served this request" if served else f"; it did not serve this request{here}"


def _served(row: Row, request: Row) -> bool | None:
    """Return whether the pod that a row is about served a request; None where that is not known."""
    if request["side"] != "server":
        return None
    if request["pod"] is not None:
        return bool(row["what"] == "/".join(filter(None, (request["namespace"], request["pod"]))))
    return None if row["address"] is None else bool(row["address"] == request["local_address"])


def _bears(row: Row, request: Row) -> bool:
    """Return whether what happened may have slowed the request, by where and when it was."""
    kind = row["kind"]
    if kind in ("cold_start", "image_pull"):  # A pod that starts loads its node.
        here = row["node"] is not None and row["node"] == request["node"]
        return _served(row, request) is not False or (here and not row["whole"])
    if kind == "resent":  # Where its own connection is known to have lost nothing, others' losses are not its own.
        return bool(request["retransmits"] != 0)
    return kind not in ("lost_rows", "throttled", "silent")


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
    "xid": lambda row, when: f"{row['what']} reported {xid.said(row['amount'])}, {when}",
    "gpu_errors": lambda row, when: (
        f"{counted(row['amount'], 'memory error')} of {row['what']}, {'the first ' if row['amount'] > 1 else ''}{when}"
    ),
    "cold_start": _cold_start,
    "image_pull": _image_pull,
    "dropped_flows": lambda row, when: (
        f"{counted(row['amount'], 'packet')} {row['what']} {'was' if row['amount'] == 1 else 'were'} dropped,"
        f" {'the first ' if row['amount'] > 1 else ''}{when}"
    ),
    "resent": lambda row, when: (
        f"packets were lost: {row['amount']:.0f} of {counted(row['whole'], 'exchange')} on {row['what']}, within a minute of"
        " it, had segments sent again more than once"
    ),
    "clock_set": _clock_set,
    "preempted": lambda row, when: (
        f"its engine preempted {counted(row['whole'], 'request')} while it lasted, {counted(row['amount'], 'time')} in all"
    ),
    "kv_cache": lambda row, when: f"the KV cache of the engine at {row['what']} was {row['amount']:.0%} full",
    "gpu_memory": lambda row, when: f"{row['what']} had {row['amount']:.1%} of its memory left",
    "interconnect": lambda row, when: (
        f"{row['what']} at {row['amount'] / 1e9:.3g} GB/s"
        + (": a model that lies in the GPU's own memory moves next to nothing" if "PCIe" in row["what"] else "")
    ),
    "gpu_active": lambda row, when: (
        f"{row['what']} was {row['amount']:.0%} active (SM): "
        + ("saturated" if row["amount"] >= 0.9 else "requests waited for the host, not for it")
    ),
    "waiting": lambda row, when: (
        f"up to {counted(row['amount'], 'request')} waited in the queue of the engine at {row['what']}"
    ),
    "kv_transfer": lambda row, when: f"KV caches came to {row['what']} at {row['amount'] / 1e9:.2g} GB/s",
    "silent": lambda row, when: (
        f"the collector on {row['what']} was silent for {milliseconds(row['amount'])}, from {when}:"
        " its readings of the node's clocks are missing"
    ),
    "throttled": lambda row, when: (
        f"{row['what']} for {milliseconds(row['whole'])} within 5 s of it, and not while it lasted"
    ),
    "lost_rows": lambda row, when: (
        f"{counted(row['amount'], 'record')} of that time {'is' if row['amount'] == 1 else 'are'} known to be lost,"
        f" by source {row['what']}"
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
    "throttled": "the GPU's counter of throttled time",
    "lost_rows": "what the sources themselves count as lost, within 1 s",
}
"""Kind → how it was found out: by its time alone it has to do with the request."""
