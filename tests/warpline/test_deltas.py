"""Counters as deltas: through failures they add up to what was counted, at the real doors as well."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.correlator.doors import open_doors
from tests.waiting import until
from warpline import telemetry
from warpline.deltas import Deltas
from warpline.otlp import read_attributes
from warpline.telemetry import Credentials, Reading


def test_what_is_taken_adds_up_to_what_was_counted_in_intervals_without_a_gap() -> None:
    chance, deltas, value = random.Random(7), Deltas(), 0
    taken: list[tuple[int, int, float]] = []
    for at in range(1, 2000):
        value += chance.choice([0, 0, 1, 97])
        found = deltas.since("rows", at, value, 0)
        ok = chance.random() < 0.3 or at == 1999
        deltas.settle(ok)
        if found and ok:
            taken.append((found[0], at, found[1]))
    assert sum(added for _, _, added in taken) == value
    assert taken[0][0] == 0
    assert all(end == start for (_, end, _), (start, _, _) in pairwise(taken))
    assert all(added > 0 for _, _, added in taken)


def test_a_counter_of_which_nobody_knows_when_it_began_tells_what_it_adds_from_its_first_reading_on() -> None:
    deltas = Deltas()
    assert deltas.since("energy", 10, 4e6) is None
    assert deltas.since("energy", 20, 4e6 + 5) == (10, 5)
    assert deltas.since("energy", 30, 4e6 + 7) == (20, 2), "within one request"
    deltas.settle(False)
    assert deltas.since("energy", 40, 4e6 + 9) == (10, 9)
    deltas.settle(True)
    assert deltas.since("energy", 50, 3) == (40, 3), "the machine was started anew"


class Counted:
    """A process's readings: two counters, one of which stands still, and a gauge."""

    def __init__(self) -> None:
        self.value, self.asked = 0, 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.value += count

    def __call__(self) -> Iterator[Reading]:
        self.asked += 1
        with self._lock:
            value = self.value
        for kind in ("a", "b"):
            yield Reading("test.rows", value * (1 if kind == "a" else 3), "{row}", True, {"kind": kind})
        yield Reading("test.still", 0, "{row}", True)
        yield Reading("test.detail", 1)


def test_the_doors_have_every_row_once_though_the_first_sendings_were_refused(tmp_path: Path) -> None:
    known, shown = tmp_path / "known", tmp_path / "shown"
    known.write_text("right\n")
    shown.write_text("wrong\n")
    counted = Counted()
    with open_doors(correlator_token_file=str(known)) as (receiver, kept):
        stop = telemetry.send_metrics(
            f"http://{receiver.http_address}", "warpline-collector", "n", counted, Credentials(str(shown)), 0.05, True
        )
        try:
            for _ in range(3):
                before = counted.asked
                counted.add(23)
                until(lambda: counted.asked > before + 8)  # noqa: B023
            assert not kept.batches, "nobody let them in"
            shown.write_text("right\n")
            for rows in (1, 97, 0):
                counted.add(rows)
                until(lambda: total(kept.rows("metric_point"))["a"] == counted.value)
        finally:
            stop()
        points = kept.rows("metric_point")
    assert total(points) == {"a": 23 * 3 + 98, "b": 3 * (23 * 3 + 98)}
    assert {each["name"] for each in points} == {"test.rows", "test.detail"}, "what stands still tells nothing"
    counters = [each for each in points if each["kind"] == "sum"]
    assert {(each["temporality"], each["monotonic"]) for each in counters} == {("delta", True)}
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for each in counters:
        spans[kind_of(each)].append((each["start_ns_of_sum"], each["time_ns"]))
    for each in spans.values():
        assert all(first[1] == second[0] for first, second in pairwise(each))
        assert all(start < end for start, end in each)


def kind_of(point: dict[str, Any]) -> str:
    return str(dict(read_attributes(point["attributes"]))["kind"])


def total(points: list[dict[str, Any]]) -> Counter[str]:
    """What the deltas add up to, by kind."""
    found = Counter[str]()
    for each in points:
        if each["name"] == "test.rows":
            found[kind_of(each)] += each["value"]
    return found
