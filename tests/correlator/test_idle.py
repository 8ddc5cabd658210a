"""Idle time of a request beside its peers' and its neighbour's, and the order in which reasons are told."""

from __future__ import annotations

from typing import Any

import pytest

from correlator import around, idle, xid
from correlator.around import Cause

MS, S = 1_000_000, 1_000_000_000
Row = dict[str, Any]
REQUEST = {
    "start_ns": 100 * S, "end_ns": 101 * S, "side": "server", "node": "n1", "retransmits": 0, "pod": None, "namespace": None,
    "local_address": "10.0.0.1",
}  # fmt: skip


def step(ordinal: int, start: int, end: int, gpus: int = 1) -> Row:
    """A step that kept each of its GPUs busy from `start` to `end`, in ms."""
    busy = (end - start) * MS
    times = {
        "start_ns": 100 * S + start * MS,
        "end_ns": 100 * S + end * MS,
        "busiest_ns": busy,
        "occupancy_ns": gpus * busy,
    }
    return {"process_uid": "p", "step_ordinal": ordinal, "phase": "decode", "busy_ns": busy, **times}


def engine(until: int, tokens: int = 2, preemptions: int = 0) -> list[Row]:
    return [{"end_ns": 100 * S + until * MS, "output_tokens": tokens, "preemptions": preemptions}]


def beside(own_ms: float, own_ratio: float, peers_ms: float, peers_ratio: float, peers: int = 20) -> list[Row]:
    known = {"property": None, "peers": peers}
    return [
        {**known, "measure": "idle_ns", "own": own_ms * MS, "peers_p50": peers_ms * MS},
        {**known, "measure": "idle_ratio", "own": own_ratio, "peers_p50": peers_ratio},
    ]


def near(kind: str, amount: float, whole: float | None = None, at: float | None = None, **more: Any) -> Row:
    at_ns = None if at is None else 100 * S + int(at * S)
    return {
        "kind": kind,
        "what": "x",
        "amount": amount,
        "whole": whole,
        "at_ns": at_ns,
        "address": None,
        "node": None,
        **more,
    }


STEPS = [step(1, 0, 10), step(2, 60, 70)]
"""50 ms between the two."""


def told(*found: Cause) -> list[tuple[str, int, str]]:
    return [(cause.sentence, cause.ns // MS, cause.kind) for cause in found]


def test_time_between_kernels_and_after_the_last_is_told_apart_beside_the_peers() -> None:
    found = idle.causes(engine(100), STEPS, [], beside(80, 0.8, 5, 0.3), 100 * MS)
    assert told(*found) == [
        (
            "for 50 ms of its prefill and decode no GPU worked on its steps: the host did not launch in time; half of 20"
            " peers had 5 ms of such time or less",
            50,
            "time",
        ),
        ("no kernel of it ran for the last 30 ms, while its engine still had it", 30, "time"),
    ]


def test_where_more_tokens_came_than_steps_are_on_record_no_more_is_claimed_than_that() -> None:
    (_, last) = idle.causes(engine(100, tokens=9), STEPS, [], [], 100 * MS)
    assert last.sentence == "no kernel of it is on record for the last 30 ms, while its engine still had it"


def test_what_its_peers_have_alike_is_no_reason_or_the_last() -> None:
    assert idle.causes(engine(70), STEPS, [], beside(50, 0.7, 40, 0.6), 300 * MS) == []
    (much,) = idle.causes(engine(70), STEPS, [], beside(50, 0.7, 40, 0.6), 100 * MS)
    assert much.kind == "ordinary" and much.sentence.endswith(
        " in time, as of its peers (half of 20 had 40 ms or more)"
    )
    (found,) = idle.causes(engine(70), STEPS, [], beside(50, 0.7, 10, 0.7), 100 * MS)
    assert found.kind == "ordinary"
    said = "no larger a share than its peers have (half of 20 have 70% or more of their time in the engine)"
    assert found.sentence.endswith(f" in time, {said}")
    assert around.first([found, Cause("short", 6 * MS, "exact")], 100 * MS)[-1] is found


def test_a_few_peers_say_nothing() -> None:
    (found,) = idle.causes(engine(70), STEPS, [], beside(50, 0.7, 40, 0.6, peers=9), 300 * MS)
    assert found.kind == "time" and "peers" not in found.sentence


def test_idle_time_that_was_a_neighbours_is_told_of_the_neighbour_and_once() -> None:
    other = near("neighbour", 90 * MS, 100 * MS)
    assert idle.shared(STEPS, engine(100), [other], other) == 70 * MS
    assert told(*idle.causes(engine(100), STEPS, [other], [], 100 * MS)) == [
        (
            "for up to 10 ms more its GPU ran neither its kernels nor the other process's: the host did not launch in time",
            10,
            "time",
        )
    ]


def test_of_a_neighbour_that_worked_little_or_of_several_gpus_it_is_not_known_what_was_at_once() -> None:
    little, several = near("neighbour", 30 * MS, 100 * MS), [step(1, 0, 10, gpus=2), step(2, 60, 70, gpus=2)]
    assert idle.shared(STEPS, engine(70), [little], little) == 0
    other = near("neighbour", 90 * MS, 100 * MS)
    assert idle.shared(several, engine(100), [other], other) == 0
    for steps, row in ((STEPS, little), (several, other)):
        (found,) = idle.causes(engine(70), steps, [row], [], 100 * MS)
        assert found.sentence.endswith(": the GPU was another process's, or the host did not launch in time")


@pytest.mark.parametrize(
    ("open_ones", "says", "evidence"),
    [
        (0, "and it waited 300 ms to go on", "derived"),
        (1, "and it waited at most 300 ms to go on (its last return is not on record)", "estimated"),
    ],
)
def test_a_request_is_told_that_it_was_preempted_itself_and_for_how_long(
    open_ones: int, says: str, evidence: str
) -> None:
    row = near("own_preempted", 300 * MS, open_ones, 0.5)
    (found,) = idle.preempted(engine(900, preemptions=1), STEPS, [row])
    assert found.sentence == f"it was preempted 1 time: the KV cache had no room for it, {says}"
    assert (found.ns, found.evidence, found.kind) == (300 * MS, evidence, "event")
    assert idle.after_last(engine(900), STEPS, [row]) == (0 if open_ones else 830 * MS)
    assert idle.preempted(engine(900), STEPS, []) == []


def test_events_stand_before_time_that_passed_unless_that_is_far_more() -> None:
    late, long = Cause("late", 900 * MS, "derived"), Cause("waited", 300 * MS, "exact")
    named, small = Cause("xid", 0, "estimated", kind="event"), Cause("neighbour", 60 * MS, "derived", kind="event")
    order = around.first([late, long, named, small], S)
    assert [cause.sentence for cause in order] == ["xid", "late", "waited", "neighbour"]
    big = Cause("throttled", 240 * MS, "estimated", kind="event")
    assert [cause.sentence for cause in around.first([late, big], S)] == ["throttled", "late"]


def test_what_came_after_it_ended_is_no_reason_of_it() -> None:
    rows = [near("dropped_flows", 3, None, 5.0), near("xid", 79, None, -2.0)]
    events, rest = around.beside(rows, REQUEST, 1.0)
    assert [cause.sentence for cause in events] == [
        "x reported XID 79 (GPU has fallen off the bus), 2 s before it began"
    ]
    assert [cause.sentence for cause in rest] == [
        "3 packets x were dropped, the first 4 s after it ended, so not its cause"
    ]


def test_a_silent_collector_is_told_with_what_is_known_all_the_same_and_is_no_reason_of_what_it_watches() -> None:
    events, (told,) = around.beside([near("silent", 20 * S, None, -1.0)], REQUEST, 0.97)
    assert events == []
    assert told.sentence.endswith("clocks are missing; this request was seen all the same, 97% of its time by phase")


@pytest.mark.parametrize(("own", "event"), [(0, False), (2, True), (None, True)])
def test_packets_that_others_lost_are_no_reason_where_its_own_connection_lost_none(
    own: int | None, event: bool
) -> None:
    events, rest = around.beside([near("resent", 10, 256)], REQUEST | {"retransmits": own}, 1.0)
    assert (len(events), len(rest)) == ((1, 0) if event else (0, 1))


@pytest.mark.parametrize(
    ("pod", "address", "node", "says", "event"),
    [
        ("e", None, None, "; it served this request", True),
        ("other", None, "n2", "; it did not serve this request", False),
        (None, "10.0.0.1", "n1", "; it served this request", True),
        (None, "10.0.0.2", "n1", "; it did not serve this request, but started on its node", True),
        (None, None, None, ", after 9 s", True),
    ],
)
def test_a_cold_start_is_told_with_whether_it_served_the_request(
    pod: str | None, address: str | None, node: str | None, says: str, event: bool
) -> None:
    row = near("cold_start", 9 * S, 0, -8.0, address=address, node=node) | {"what": "ml/e"}
    found = around.beside([row], REQUEST | {"pod": pod, "namespace": "ml" if pod else None}, 1.0)
    (cause,) = found[0] if event else found[1]
    assert cause.sentence.endswith(says)


def test_throttling_is_told_of_the_time_of_the_request_and_apart_where_it_was_beside_it() -> None:
    during, beside_it = near("throttled", 400 * MS, 5 * S, -3.0), near("throttled", 0, 5 * S, -3.0)
    (found,) = around.causes([during, beside_it], S, lambda row: 0)
    assert (found.sentence, found.ns) == ("x for 400 ms of the 1 s that it lasted", 400 * MS)
    events, (rest,) = around.beside([during, beside_it], REQUEST, 1.0)
    assert events == [] and rest.sentence == "x for 5 s within 5 s of it, and not while it lasted"


def test_an_xid_has_its_words_where_they_are_known() -> None:
    assert [xid.said(code) for code in (94.0, 31.0, 999.0)] == [
        "XID 94 (contained ECC error)",
        "XID 31 (GPU memory page fault)",
        "XID 999",
    ]
