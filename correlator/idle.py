"""Time that an engine had a request while no kernel of it ran, in sentences: stalls, the time after its last kernel.

That a host was late is ordinary on a busy machine: it is told beside what the request's peers have (view `request_peer`),
ranks last where their share is as large or their time nearly as long, and is then no reason at all unless it is a quarter of
the request's time. What another process did on the GPU meanwhile is not told again as idle: of so much of both as must have
been at once, that process is the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from correlator.around import Cause, Row, counted, milliseconds
from correlator.peers import LEAST_PEERS, LEAST_RATIO

_ALIKE = 1.1
"""Up to how many times their median share of idle time a request has what its peers have, too."""
MOST = 0.25
"""Share of the wall time from which on time that is ordinary, or that passed without work for it, is named."""
_METHOD = "ends and beginnings of its steps' kernels"


def preempted(engine: Sequence[Row], steps: Sequence[Row], near: Sequence[Row]) -> list[Cause]:
    """Say how often the request itself was preempted, and how long it waited to go on."""
    times = sum(each["preemptions"] for each in engine)
    again = sum(step["busy_ns"] or 0 for step in steps if step["phase"] == "recompute")
    own = next((row for row in near if row["kind"] == "own_preempted"), None)
    if not times and not again and own is None:
        return []
    text = f"it was preempted {counted(max(times, 1), 'time')}: the KV cache had no room for it"
    if own is not None:
        text += f", and it waited {'at most ' if own['whole'] else ''}{milliseconds(own['amount'])} to go on"
        text += " (its last return is not on record)" if own["whole"] else ""
    text += f"; {milliseconds(again)} of GPU time went to compute its context again" if again else ""
    waited = 0 if own is None else int(own["amount"])
    known = "estimated" if own is not None and own["whole"] else "derived"
    return [Cause(text, max(waited, again), known, "the engine's events; step ledger", kind="event")]


def causes(
    engine: Sequence[Row], steps: Sequence[Row], near: Sequence[Row], beside: Sequence[Row], wall_ns: int
) -> list[Cause]:
    """Say for how long no kernel of the request ran: between its kernels, and after the last of them.

    `engine`, `steps`, `near` and `beside` are its rows of the views `request_engine`, `request_step`, `request_around` and
    `request_peer`; `wall_ns` is its wall time.
    """
    stalls, tail = stalled(steps), after_last(engine, steps, near)
    idle = stalls + tail
    kind, compared = _beside_peers(beside)
    if not idle or (kind == "ordinary" and idle < MOST * wall_ns):
        return []
    others = [row for row in near if row["kind"] == "neighbour"]
    both = _at_once(idle, steps, others)
    if 2 * both >= idle:
        text = f"for up to {milliseconds(idle - both)} more its GPU ran neither its kernels nor the other process's"
        return [Cause(f"{text}: the host did not launch in time", idle - both, "derived", _METHOD, kind=kind)]
    found = []
    if stalls:
        why = "the GPU was another process's, or the host did not launch in time" if others else _LATE
        text = f"for {milliseconds(stalls)} of its prefill and decode no GPU worked on its steps: {why}"
        found.append(Cause(text + (compared if stalls >= tail else ""), stalls, "derived", _METHOD, kind=kind))
    if tail:
        whole = sum(step["occupancy_ns"] is not None for step in steps) >= sum(e["output_tokens"] or 0 for e in engine)
        ran = "ran" if whole else "is on record"
        text = f"no kernel of it {ran} for the last {milliseconds(tail)}, while its engine still had it"
        found.append(Cause(text + (compared if tail > stalls else ""), tail, "derived", _METHOD, kind=kind))
    return found


_LATE = "the host did not launch in time"


def shared(steps: Sequence[Row], engine: Sequence[Row], near: Sequence[Row], other: Row) -> int:
    """Return for how many ns another process, a row of `request_around`, ran while no kernel of it did, at least."""
    return _at_once(stalled(steps) + after_last(engine, steps, near), steps, [other])


def _at_once(idle: int, steps: Sequence[Row], others: Sequence[Row]) -> int:
    """Return the least that idle time and another's have in common, as both lie within the request; 0 on several GPUs."""
    if not others or any(step["occupancy_ns"] != step["busiest_ns"] for step in steps):
        return 0
    most = max(others, key=lambda row: float(row["amount"]))
    return max(int(min(most["amount"], most["whole"])) + idle - int(most["whole"]), 0)


def stalled(steps: Sequence[Row]) -> int:
    """Return for how many ns no kernel of its steps ran: within a step (on its busiest GPU), or between two in a row."""
    placed = [s for s in steps if s["occupancy_ns"] is not None]
    total: int = sum(max(s["end_ns"] - s["start_ns"] - s["busiest_ns"], 0) for s in placed)
    for before, after in itertools.pairwise(placed):
        if before["process_uid"] == after["process_uid"] and after["step_ordinal"] == before["step_ordinal"] + 1:
            total += max(after["start_ns"] - before["end_ns"], 0)
    return total


def after_last(engine: Sequence[Row], steps: Sequence[Row], near: Sequence[Row]) -> int:
    """Return for how many ns its engine had it after its last kernel; 0 where it had been preempted, which is told apart."""
    placed = [s["end_ns"] for s in steps if s["occupancy_ns"] is not None]
    if len(engine) != 1 or engine[0]["end_ns"] is None or not placed:
        return 0
    if any(row["kind"] == "own_preempted" and row["whole"] for row in near):
        return 0
    last: int = max(placed)
    return max(int(engine[0]["end_ns"]) - last, 0)


def _beside_peers(rows: Sequence[Row]) -> tuple[str, str]:
    """Return whether its idle time is more than its peers' (`time`) or `ordinary`, and what is told of theirs."""
    own = {row["measure"]: row for row in rows if row["property"] is None and row["peers"] >= LEAST_PEERS}
    time, share = own.get("idle_ns"), own.get("idle_ratio")
    if time is None or share is None or None in (time["own"], share["own"], time["peers_p50"], share["peers_p50"]):
        return "time", ""
    longer, larger = (each["own"] >= LEAST_RATIO * each["peers_p50"] for each in (time, share))
    if not longer and not larger:
        return "ordinary", f", as of its peers (half of {time['peers']} had {milliseconds(time['peers_p50'])} or more)"
    if share["own"] <= _ALIKE * share["peers_p50"]:
        said = f"half of {share['peers']} have {share['peers_p50']:.0%} or more of their time in the engine"
        return "ordinary", f", no larger a share than its peers have ({said})"
    return "time", f"; half of {time['peers']} peers had {milliseconds(time['peers_p50'])} of such time or less"
